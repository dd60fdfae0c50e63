//! What the image costs, compared with what is committed beside it. One instruction is one nanosecond to the emulator here
//! (`-icount shift=0`); time asleep does not count.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use hearthkey_tests::hub::Hub;

use crate::emulated::{Board, Image, image_dir};
use crate::life::HASTY;

/// A figure may rise by this many percent before somebody has to say why.
const ALLOWED_RISE: u64 = 5;

/// `name number what it is`, one a line.
fn committed(file: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(file).expect("the figures are committed");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let figures = lines.map(|line| {
        let mut words = line.split_whitespace();
        let (name, number) = (words.next().expect("a name"), words.next().expect("a number"));
        (name.to_owned(), number.replace('_', "").parse().expect("a number"))
    });
    figures.collect()
}

async fn measured(image: Image) -> BTreeMap<String, u64> {
    let hub = Hub::start().await;
    hub.apply_profile(HASTY).await;
    let string = hub.add("board", "hasty").await;
    // No reading but the first falls into what is measured.
    let mut board = Board::start_of(image, &string, &["--icount", "--interval", "60"]).await;
    let mut figures = BTreeMap::new();
    let mut note = async |board: &mut Board, name: &str, unit: u64| {
        let figure: u64 = board.said(&format!("figure {name} ")).await.parse().expect("a number");
        figures.insert(name.to_owned(), figure * unit);
    };
    // The board counts instructions in thousands.
    note(&mut board, "flash", 1).await;
    note(&mut board, "static-ram", 1).await;
    note(&mut board, "enrolment", 1_000).await;
    note(&mut board, "enrolment-sent", 1).await;
    note(&mut board, "enrolment-received", 1).await;
    board.said("acknowledged").await;
    board.type_in("s").await;
    let enrolling: u64 = board.said("figure stack ").await.parse().expect("a number");
    // From power-on to the first publish, enrolled: the next start.
    board.type_in("p").await;
    note(&mut board, "connect", 1_000).await;
    note(&mut board, "first-publish", 1_000).await;
    note(&mut board, "first-publish-sent", 1).await;
    note(&mut board, "first-publish-received", 1).await;
    note(&mut board, "renewal", 1_000).await;
    note(&mut board, "renewal-sent", 1).await;
    note(&mut board, "renewal-received", 1).await;
    board.type_in("s").await;
    note(&mut board, "stack", 1).await;
    hub.finish().await;
    // The paint on the stack is fresh at each start.
    figures.entry("stack".to_owned()).and_modify(|living| *living = enrolling.max(*living));
    figures.insert("ram".to_owned(), figures["static-ram"] + figures["stack"]);
    figures
}

#[tokio::test]
async fn no_figure_of_the_image_rises_by_more_than_five_percent() {
    compare(Image::Fast, "figures.txt").await;
}

#[tokio::test]
async fn no_figure_of_the_image_with_p256_alone_rises_by_more_than_five_percent() {
    compare(Image::Reference, "figures-p256.txt").await;
}

async fn compare(image: Image, file: &str) {
    let file = image_dir().join(file);
    let (committed, measured) = (committed(&file), measured(image).await);
    let mut table = format!("{:<24}{:>12}{:>12}\n", "figure", "committed", "measured");
    let mut risen = String::new();
    for (name, now) in &measured {
        let before = committed.get(name).copied().unwrap_or_default();
        writeln!(table, "{name:<24}{before:>12}{now:>12}").expect("text");
        if *now * 100 > before * (100 + ALLOWED_RISE) {
            writeln!(risen, "  {name}: {before} before, {now} now").expect("text");
        }
    }
    // Past the capture of the test's own output: CI shows the figures.
    let _ = write!(std::io::stderr(), "\n{image:?}\n{table}");
    assert!(measured.keys().eq(committed.keys()), "{} names other figures: {committed:?}", file.display());
    assert!(
        risen.is_empty(),
        "risen by more than {ALLOWED_RISE} %; if it must be, commit it in {}:\n{risen}{table}",
        file.display()
    );
}
