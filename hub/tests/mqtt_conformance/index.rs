//! Which test holds which statement, and why some need none. docs/conformance.md is made of this; with `HEARTHKEY_WRITE_DOCS=1`
//! in the environment this test writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The statements of MQTT 5.0 as the OASIS Standard of 7 March 2019 numbers them: section, first and last number.
const V5: &str = "1.5.4 1 3, 1.5.5 1 1, 1.5.7 1 1, 2.1.3 1 1, 2.2.1 2 6, 2.2.2 1 1, 3.1.0 1 2, 3.1.2 1 30, 3.1.3 1 12, \
    3.1.4 1 6, 3.2.0 1 2, 3.2.2 1 22, 3.3.1 1 13, 3.3.2 1 20, 3.3.4 1 10, 3.4.2 1 3, 3.5.2 1 3, 3.6.1 1 1, 3.6.2 1 3, \
    3.7.2 1 3, 3.8.1 1 1, 3.8.3 1 5, 3.8.4 1 8, 3.9.2 1 2, 3.9.3 1 2, 3.10.1 1 1, 3.10.3 1 2, 3.10.4 1 6, 3.11.2 1 2, \
    3.11.3 1 2, 3.12.4 1 1, 3.14.0 1 1, 3.14.1 1 1, 3.14.2 1 4, 3.14.4 1 3, 3.15.1 1 1, 3.15.2 1 3, 4.1.0 1 2, 4.2.0 1 1, \
    4.3.1 1 1, 4.3.2 1 5, 4.3.3 1 13, 4.4.0 1 2, 4.5.0 1 2, 4.6.0 1 6, 4.7.0 1 1, 4.7.1 1 2, 4.7.2 1 1, 4.7.3 1 4, \
    4.8.2 1 6, 4.9.0 1 3, 4.12.0 1 7, 4.12.1 1 2, 4.13.1 1 1, 4.13.2 1 1, 6.0.0 1 4";

/// The statements of MQTT 3.1.1, appendix B.
const V311: &str = "1.5.3 1 3, 2.2.2 1 2, 2.3.1 1 7, 3.1.0 1 2, 3.1.2 1 24, 3.1.3 1 11, 3.1.4 1 5, 3.2.0 1 1, 3.2.2 1 6, \
    3.3.1 1 12, 3.3.2 1 3, 3.3.4 1 1, 3.3.5 1 2, 3.6.1 1 1, 3.8.1 1 1, 3.8.3 1 4, 3.8.4 1 6, 3.9.3 1 2, 3.10.1 1 1, \
    3.10.3 1 2, 3.10.4 1 6, 3.12.4 1 1, 3.14.1 1 1, 3.14.4 1 3, 4.1.0 1 2, 4.3.1 1 1, 4.3.2 1 2, 4.3.3 1 2, 4.4.0 1 1, \
    4.5.0 1 2, 4.6.0 1 6, 4.7.1 1 3, 4.7.2 1 1, 4.7.3 1 4, 4.8.0 1 2, 6.0.0 1 4, 7.0.0 1 2, 7.1.1 1 1, 7.1.2 1 1";

const CLIENT: &str = "a client's duty, which no server can break or see broken";

/// Statements of MQTT 5.0 without a test here, and why.
const EXCUSED_V5: &[(&str, &str)] =
    &[("3.1.2-20 3.1.2-21 3.2.2-4 3.2.2-5 3.2.2-11 3.2.2-14 3.2.2-18 3.2.2-21 3.3.2-10 3.3.4-8 4.5.0-2", CLIENT)];

/// Statements of MQTT 3.1.1 without a test here, and why.
const EXCUSED_V311: &[(&str, &str)] = &[
    ("2.3.1-2 2.3.1-3 3.1.2-23 3.1.3-7 3.14.4-1 3.14.4-2 4.5.0-2 7.1.2-1", CLIENT),
    ("7.0.0-1", "the hub connects to no other server"),
];

const SOURCES: &[(&str, &str)] = &[
    ("strings", include_str!("strings.rs")),
    ("connecting", include_str!("connecting.rs")),
    ("wills", include_str!("wills.rs")),
    ("publishing", include_str!("publishing.rs")),
    ("exactly_once", include_str!("exactly_once.rs")),
    ("sharing", include_str!("sharing.rs")),
    ("subscribing", include_str!("subscribing.rs")),
    ("topics", include_str!("topics.rs")),
    ("session_state", include_str!("session_state.rs")),
    ("ending", include_str!("ending.rs")),
    // What is tested where it belongs: the limits of the front, and the HTTPS listener.
    ("mqtt_front::bad_input", include_str!("../mqtt_front/bad_input.rs")),
    ("http::websocket", include_str!("../http/websocket.rs")),
];

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md");

fn statements(ranges: &str) -> BTreeSet<String> {
    let numbers = |range: &str| {
        let words: Vec<_> = range.split_whitespace().map(str::to_owned).collect();
        let (first, last) = (words[1].parse::<u32>().unwrap(), words[2].parse().unwrap());
        (first..=last).map(move |number| format!("{}-{number}", words[0]))
    };
    ranges.split(',').flat_map(numbers).collect()
}

/// What the tests say they hold: by specification and statement, the tests.
fn held() -> BTreeMap<(&'static str, String), Vec<String>> {
    let mut held: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (module, source) in SOURCES {
        let mut claims: Vec<(&'static str, String)> = Vec::new();
        for line in source.lines() {
            let claimed = line.strip_prefix("/// ").filter(|line| line.starts_with("5: ") || line.starts_with("3.1.1: "));
            for part in claimed.into_iter().flat_map(|line| line.split(" · ")) {
                let (specification, numbers) = part.split_once(": ").unwrap();
                let specification = if specification == "5" { "5.0" } else { "3.1.1" };
                claims.extend(numbers.split(", ").map(|number| (specification, number.to_owned())));
            }
            if let Some(name) = line.strip_prefix("async fn ") {
                let name = name.split('(').next().unwrap();
                assert!(!claims.is_empty() || !name.starts_with("mqtt_"), "{module}::{name} does not say what it holds");
                for claim in claims.drain(..) {
                    held.entry(claim).or_default().push(format!("{module}::{name}"));
                }
            }
        }
        assert!(claims.is_empty(), "{module}: {claims:?} without a test");
    }
    held
}

/// 3.10.4-2 after 3.9.3-1.
fn in_order(statements: &BTreeSet<String>) -> Vec<&String> {
    let mut ordered: Vec<_> = statements.iter().collect();
    ordered.sort_by_key(|statement| statement.split(['.', '-']).map(|part| part.parse::<u32>().unwrap()).collect::<Vec<_>>());
    ordered
}

#[test]
fn every_statement_of_both_specifications_has_a_test_or_a_reason() {
    let mut held = held();
    let mut document = String::from(
        "# Conformance\n\nOne test for each normative statement of MQTT 5.0 and MQTT 3.1.1 that concerns a server, named after it, in\n\
         `hub/tests/mqtt_conformance` (some in `hub/tests/mqtt_front` and `hub/tests/http`). The numbers are those of the OASIS\n\
         Standards of 7 March 2019 and 29 October 2014. Made by the test `every_statement_of_both_specifications_has_a_test_or_a_reason`\n\
         (`HEARTHKEY_WRITE_DOCS=1 cargo test -p hearthkey --test mqtt_conformance every_statement`): do not edit.\n",
    );
    let mut missing = Vec::new();
    for (specification, ranges, excused) in [("5.0", V5, EXCUSED_V5), ("3.1.1", V311, EXCUSED_V311)] {
        let statements = statements(ranges);
        let mut excuses: BTreeMap<&str, &str> = excused
            .iter()
            .flat_map(|(numbers, reason)| numbers.split_whitespace().map(move |number| (number, *reason)))
            .collect();
        let mut rows = String::new();
        let mut tested = 0;
        for statement in in_order(&statements) {
            let tests = held.remove(&(specification, statement.clone()));
            let cell = match (tests, excuses.remove(statement.as_str())) {
                (Some(tests), None) => {
                    tested += 1;
                    tests.iter().map(|test| format!("`{test}`")).collect::<Vec<_>>().join(", ")
                }
                (None, Some(reason)) => reason.to_owned(),
                (Some(_), Some(_)) => panic!("MQTT {specification} {statement} has a test and an excuse"),
                (None, None) => {
                    missing.push(format!("{specification} {statement}"));
                    continue;
                }
            };
            writeln!(rows, "| MQTT-{statement} | {cell} |").unwrap();
        }
        assert!(excuses.is_empty(), "no such statement of MQTT {specification}: {excuses:?}");
        let count = statements.len();
        write!(document, "\n## MQTT {specification}\n\n{tested} of {count} statements have a test; the others say why not.\n\n")
            .unwrap();
        write!(document, "| statement | test, or why none |\n|---|---|\n{rows}").unwrap();
    }
    assert!(missing.is_empty(), "neither test nor reason: {missing:?}");
    assert!(held.is_empty(), "no such statement: {held:?}");
    if std::env::var_os("HEARTHKEY_WRITE_DOCS").is_some() {
        std::fs::write(DOCUMENT, &document).unwrap();
    }
    let written = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
    assert!(written == document, "docs/conformance.md is not up to date: run this test with HEARTHKEY_WRITE_DOCS=1");
}

#[test]
fn the_specifications_have_251_and_141_statements() {
    assert_eq!((statements(V5).len(), statements(V311).len()), (251, 141));
}
