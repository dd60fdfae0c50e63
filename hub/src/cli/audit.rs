//! `hearthkey audit list`, `verify` and `export`: what happened, found again, proved, and taken away.
//!
//! What a hub says of its own log is the hub's word; an exported file is proved here.

use super::{
    api,
    args::{AuditExport, AuditList, AuditVerify},
    check::named,
    client::Client,
    failure::{Exit, Failure},
    output::{BAD, FAINT, Format, GOOD, Output, styled, understood},
    stream::record_line,
    when::Clock,
};
use hearthkey_core::{
    audit::{AuditRecord, ChainHead, verify as verify_chain},
    write::MAX_VALUE_BYTES,
};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
};
use tempfile::NamedTempFile;

/// How many entries to hold in memory at once: a log of any length is proved in pieces, each continuing the one before.
const PIECE: usize = 1_000;

pub(super) async fn list(args: &AuditList, client: &Client, clock: &Clock, out: &mut Output) -> Result<Exit, Failure> {
    let unix = |moment: super::args::Moment| moment.before(clock.now()).0.to_string();
    let filters = [
        ("last", Some(args.last.to_string())),
        ("actor", args.actor.clone()),
        ("action", args.action.clone()),
        ("target", args.target.clone()),
        ("outcome", args.outcome.map(|outcome| outcome.as_str().to_owned())),
        ("since", args.since.map(unix)),
        ("until", args.until.map(unix)),
    ];
    let query: Vec<(&str, &str)> =
        filters.iter().filter_map(|(name, value)| value.as_deref().map(|value| (*name, value))).collect();
    render_list(&client.get(&["audit"], &query).await?, args.last, clock, out)?;
    Ok(Exit::Done)
}

fn render_list(answer: &Value, last: u32, clock: &Clock, out: &mut Output) -> Result<(), Failure> {
    out.answer(answer, |out, page: api::Items<api::AuditRecord>| {
        if page.items.is_empty() {
            out.note("no entry matches");
        }
        if page.items.len() as u64 >= u64::from(last) {
            out.note(styled(FAINT, format!("the latest {last} that match; --last shows more, hearthkey audit export all")));
        }
        page.items.iter().try_for_each(|record| out.line(record_line(record, clock)))
    })
}

/// Asks the hub whether its log holds.
pub(super) async fn verify(client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let answer = client.get(&["audit", "verify"], &[]).await?;
    render_verified(&answer, out)
}

fn render_verified(answer: &Value, out: &mut Output) -> Result<Exit, Failure> {
    let ok = understood::<api::Verified>(answer)?.ok;
    out.answer(answer, |out, verified: api::Verified| {
        let api::Verified { entries, head, fault, .. } = verified;
        match ok {
            true => out.line(format!(
                "{} {entries} entries, none changed and none missing; the hub says so\nhead {} {}",
                styled(GOOD, "ok"),
                head.seq,
                head.hash
            )),
            false => out.line(format!(
                "{} {}",
                styled(BAD, "broken"),
                fault.unwrap_or_else(|| "the hub does not say where".to_owned())
            )),
        }
    })?;
    Ok(if ok { Exit::Done } else { Exit::Refused })
}

/// Proves an exported log, without a hub.
pub(super) fn verify_file(args: &AuditVerify, file: &Path, out: &mut Output) -> Result<Exit, Failure> {
    let cannot_read = |error: io::Error| Failure::new(Exit::Refused, format!("cannot read {}: {error}", named(file)));
    let chain = match file == Path::new("-") {
        true => prove(&mut BufReader::new(io::stdin())),
        false => prove(&mut BufReader::new(File::open(file).map_err(cannot_read)?)),
    }
    .map_err(cannot_read)?;
    let fault = chain.fault.clone().or_else(|| match &args.head {
        Some(expected) if *expected != chain.head.hash => {
            Some(format!("the chain holds, but ends with entry {} {}, not with {expected}", chain.head.seq, chain.head.hash))
        }
        _ => None,
    });
    show_proof(file, &chain, fault.as_deref(), out)
}

fn show_proof(file: &Path, chain: &Proof, fault: Option<&str>, out: &mut Output) -> Result<Exit, Failure> {
    let Proof { anchor, head, entries, .. } = chain;
    match (out.format(), fault) {
        (Format::Json, _) => out.json(&json!({ "file": file, "ok": fault.is_none(), "entries": entries, "head": head,
            "anchor": anchor, "fault": fault }))?,
        (Format::Table, Some(fault)) => {
            out.line(format!("{} {}: {fault}", styled(BAD, "broken"), named(file)))?;
        }
        (Format::Table, None) => {
            let from = anchor.seq + 1;
            out.line(format!(
                "{} {}: {entries} entries, from {from} to {}, none changed and none missing",
                styled(GOOD, "ok"),
                named(file),
                head.seq
            ))?;
            out.line(format!("head {} {}", head.seq, head.hash))?;
            if from > 1 {
                out.line(format!("earlier entries have left the log; the last of them was {}", anchor.hash))?;
            }
        }
    }
    Ok(if fault.is_none() { Exit::Done } else { Exit::Refused })
}

/// What the entries of a file prove.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Proof {
    /// What the first entry continues, in its own words.
    anchor: ChainHead,
    /// The last entry that holds.
    head: ChainHead,
    /// How many hold.
    entries: u64,
    /// Why the next one does not.
    fault: Option<String>,
}

fn prove(lines: &mut impl BufRead) -> io::Result<Proof> {
    let mut proof: Option<Proof> = None;
    loop {
        let (rows, overlong) = read_piece(lines)?;
        let so_far = match (proof.take(), rows.first()) {
            (Some(proof), _) => proof,
            (None, Some(first)) => beginning_with(first),
            (None, None) => beginning_with(b""),
        };
        let mut so_far = continued(so_far, &rows);
        if so_far.fault.is_none() && overlong {
            so_far.fault = Some(format!("what follows entry {} is longer than an entry can be", so_far.head.seq));
        }
        if so_far.fault.is_some() || rows.len() < PIECE {
            if so_far.fault.is_none() && so_far.entries == 0 {
                so_far.fault = Some("there is no entry in it".to_owned());
            }
            return Ok(so_far);
        }
        proof = Some(so_far);
    }
}

/// Lines without their ends; and whether one was too long.
fn read_piece(lines: &mut impl BufRead) -> io::Result<(Vec<Vec<u8>>, bool)> {
    let mut rows = Vec::new();
    while rows.len() < PIECE {
        let mut row = Vec::new();
        if lines.take(MAX_VALUE_BYTES as u64 + 1).read_until(b'\n', &mut row)? == 0 {
            break;
        }
        match row.strip_suffix(b"\n") {
            Some(line) => rows.push(line.to_vec()),
            None if row.len() > MAX_VALUE_BYTES => return Ok((rows, true)),
            None => rows.push(row),
        }
    }
    Ok((rows, false))
}

/// The beginning of a chain is what its first entry says of the one before.
fn beginning_with(first: &[u8]) -> Proof {
    let anchor = serde_json::from_slice::<AuditRecord>(first)
        .map(|record| ChainHead { seq: record.seq.saturating_sub(1), hash: record.previous })
        .unwrap_or_default();
    Proof { head: anchor.clone(), anchor, entries: 0, fault: None }
}

fn continued(so_far: Proof, rows: &[Vec<u8>]) -> Proof {
    let Some(last) = rows.last() else { return so_far };
    let head = ChainHead::of_row(so_far.head.seq.saturating_add(rows.len() as u64), last);
    match verify_chain(&so_far.head, rows.iter().map(Vec::as_slice), &head) {
        Ok(proved) => Proof { head, entries: so_far.entries + proved, ..so_far },
        Err(broken) => Proof { fault: Some(broken.to_string()), ..so_far },
    }
}

pub(super) async fn export(args: &AuditExport, client: &Client, out: &mut Output) -> Result<Exit, Failure> {
    let path = ["audit", "export"];
    let Some(file) = args.file.as_deref().filter(|file| *file != Path::new("-")) else {
        // Not through `out`, which would take escape sequences away.
        let mut stdout = io::stdout();
        client.download(&path, &mut stdout).await?;
        stdout.flush()?;
        return Ok(Exit::Done);
    };
    let refused = |why: &dyn std::fmt::Display| Failure::new(Exit::Refused, format!("cannot write {}: {why}", file.display()));
    if file.exists() {
        return Err(refused(&"it exists, and may hold entries that have left the hub").next("another name"));
    }
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Mode 0600 from the start, and under its name only when it is whole.
    let mut exported = NamedTempFile::new_in(dir).map_err(|error| refused(&error))?;
    client.download(&path, &mut exported).await?;
    exported.flush().and_then(|()| exported.as_file().sync_all()).map_err(|error| refused(&error))?;
    let chain = exported.reopen().and_then(|file| prove(&mut BufReader::new(file))).map_err(|error| refused(&error))?;
    exported.persist_noclobber(file).map_err(|error| refused(&error.error))?;
    show_proof(file, &chain, chain.fault.as_deref(), out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearthkey_core::{
        UnixTime,
        audit::{AuditDraft, Outcome},
    };

    fn exported(length: u64) -> (Vec<Vec<u8>>, ChainHead) {
        let mut head = ChainHead::default();
        let rows = (0..length).map(|number| {
            let draft = AuditDraft {
                actor: "hub".to_owned(),
                action: "test",
                target: format!("entry {number}"),
                outcome: Outcome::Success,
                reason: String::new(),
                count: 1,
            };
            let (next, row) = head.append(draft, UnixTime(number), "", "");
            head = next;
            row
        });
        (rows.collect(), head)
    }

    fn proved(rows: &[Vec<u8>]) -> Proof {
        let file = rows.join(&b"\n"[..]);
        prove(&mut file.as_slice()).expect("memory can be read")
    }

    #[test]
    fn a_log_of_any_length_is_proved_and_its_head_told() {
        for length in [1, 2, 999, 1_000, 1_001, 2_500] {
            let (rows, head) = exported(length);
            let proof = proved(&rows);
            assert_eq!((proof.fault, proof.entries, proof.head), (None, length, head));
        }
    }

    #[test]
    fn a_log_whose_beginning_has_left_is_proved_from_where_it_begins() {
        let (rows, head) = exported(1_500);
        let proof = proved(&rows[300..]);
        assert_eq!((proof.fault, proof.entries, proof.head, proof.anchor.seq), (None, 1_200, head, 300));
        assert_eq!(proof.anchor, ChainHead::of_row(300, &rows[299]));
    }

    #[test]
    fn a_changed_or_missing_entry_shows_in_whichever_piece_it_stands() {
        let (rows, head) = exported(2_100);
        for place in [0, 1, 998, 999, 1_000, 1_001, 1_999, 2_000, 2_098] {
            let mut changed = rows.clone();
            changed[place] = String::from_utf8(changed[place].clone()).expect("JSON").replace("entry", "Entry").into_bytes();
            assert!(proved(&changed).fault.is_some(), "changed {place}");
            if place > 0 {
                let mut removed = rows.clone();
                removed.remove(place);
                assert!(proved(&removed).fault.is_some(), "removed {place}");
            }
        }
        let mut last = rows.clone();
        last[2_099] = String::from_utf8(last[2_099].clone()).expect("JSON").replace("entry", "Entry").into_bytes();
        assert_ne!(proved(&last).head, head, "only the head tells that the last entry was changed");
        assert_ne!(proved(&rows[..2_099]).head, head, "or cut off");
    }

    #[test]
    fn what_is_no_log_is_told_and_fills_no_memory() {
        assert!(prove(&mut &b""[..]).expect("read").fault.expect("empty").contains("no entry"));
        assert!(prove(&mut &b"hello\n"[..]).expect("read").fault.is_some());
        assert!(prove(&mut &b"\n\n"[..]).expect("read").fault.is_some());
        let endless = prove(&mut BufReader::new(io::repeat(b'x'))).expect("read");
        assert!(endless.fault.expect("too long").contains("longer than an entry"));
    }

    #[test]
    fn a_head_that_was_kept_is_compared() {
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("audit.ndjson");
        let (rows, head) = exported(3);
        std::fs::write(&file, rows.join(&b"\n"[..])).expect("written");
        let verified = |expected: Option<String>| {
            let args = AuditVerify { file: Some(file.clone()), head: expected };
            let (mut out, printed) = Output::captured(Format::Json);
            let exit = verify_file(&args, &file, &mut out).expect("read");
            (exit, serde_json::from_str::<Value>(&printed.text()).expect("JSON"))
        };
        let (exit, told) = verified(Some(head.hash.clone()));
        assert_eq!((exit, &told["ok"], &told["entries"]), (Exit::Done, &json!(true), &json!(3)));
        assert_eq!(told["head"]["hash"], json!(head.hash));
        assert_eq!(verified(None).0, Exit::Done);
        let (exit, told) = verified(Some("0".repeat(64)));
        assert_eq!((exit, &told["ok"]), (Exit::Refused, &json!(false)));
    }

    #[test]
    fn what_the_hub_found_is_an_exit_code() {
        let head = ChainHead { seq: 7, hash: "ab".repeat(32) };
        let holds = json!({"ok": true, "entries": 7, "head": head, "anchor": ChainHead::default()});
        let (mut out, printed) = Output::captured(Format::Table);
        assert_eq!(render_verified(&holds, &mut out).expect("rendered"), Exit::Done);
        assert!(printed.text().starts_with("ok 7 entries") && printed.text().contains(&head.hash), "{}", printed.text());
        let broken = json!({"ok": false, "entries": 7, "head": head, "anchor": head, "fault": "audit entry 3 is missing"});
        let (mut out, printed) = Output::captured(Format::Table);
        assert_eq!(render_verified(&broken, &mut out).expect("rendered"), Exit::Refused);
        assert_eq!(printed.text(), "broken audit entry 3 is missing\n");
    }
}
