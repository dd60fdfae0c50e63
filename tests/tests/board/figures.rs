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

/// What the board shows of a phase: `figure connect: 3650 thousand instructions, 14000 stack, 700 sent, 1500 received`.
struct Phase {
    name: String,
    thousand_instructions: u64,
    stack: u64,
    sent: u64,
    received: u64,
}

impl Phase {
    /// The next phase that ends.
    async fn next(board: &mut Board) -> Self {
        loop {
            let line = board.said("figure ").await;
            let Some((name, costs)) = line.split_once(": ") else { continue };
            let numbers: Vec<u64> = costs.split(' ').filter_map(|word| word.parse().ok()).collect();
            let [thousand_instructions, stack, sent, received] = numbers[..] else { panic!("four figures, not {line}") };
            return Self { name: name.to_owned(), thousand_instructions, stack, sent, received };
        }
    }

    /// The lesser of each figure.
    fn least(self, other: &Self) -> Self {
        Self {
            name: self.name,
            thousand_instructions: self.thousand_instructions.min(other.thousand_instructions),
            stack: self.stack.min(other.stack),
            sent: self.sent.min(other.sent),
            received: self.received.min(other.received),
        }
    }

    fn figures(&self) -> [(String, u64); 4] {
        let Self { name, thousand_instructions, stack, sent, received } = self;
        [
            (name.clone(), thousand_instructions * 1_000),
            (format!("{name}-stack"), *stack),
            (format!("{name}-sent"), *sent),
            (format!("{name}-received"), *received),
        ]
    }
}

async fn measured(image: Image) -> BTreeMap<String, u64> {
    let hub = Hub::start().await;
    hub.apply_profile(HASTY).await;
    let string = hub.add("board", "hasty").await;
    // Readings and renewals each fall into turns of their own; where they do not, the board waits for the next.
    let mut board = Board::start_of(image, &string, &["--icount", "--interval", "2"]).await;
    let mut figures = BTreeMap::new();
    for name in ["flash", "static-ram"] {
        figures.insert(name.to_owned(), board.said(&format!("figure {name} ")).await.parse().expect("a number"));
    }
    let enrolment = Phase::next(&mut board).await;
    assert_eq!(enrolment.name, "enrolment");
    figures.extend(enrolment.figures());
    board.said("acknowledged").await;
    // From power-on to the first publish, enrolled: the next start.
    board.type_in("p").await;
    board.said("hearthkey-board").await;
    for name in ["connect", "token", "first-publish"] {
        let phase = Phase::next(&mut board).await;
        assert_eq!(phase.name, name);
        figures.extend(phase.figures());
    }
    // The least of some publishes, for something may fall together with one; the last of them has a renewal before it, and not what a
    // connection begins with.
    let (mut publish, mut renewal) = (None::<Phase>, None);
    loop {
        let phase = Phase::next(&mut board).await;
        if phase.name == "renewal" {
            renewal = renewal.or(Some(phase));
        } else if phase.name == "publish" {
            publish = Some(match publish {
                Some(former) => former.least(&phase),
                None => phase,
            });
            if renewal.is_some() {
                break;
            }
        }
    }
    figures.extend([publish, renewal].into_iter().flatten().flat_map(|phase| phase.figures()));
    board.type_in("s").await;
    let stack: u64 = board.said("figure stack ").await.parse().expect("a number");
    hub.finish().await;
    // Of both lives; the paint on the stack is fresh at each start.
    figures.insert("stack".to_owned(), stack.max(enrolment.stack));
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
