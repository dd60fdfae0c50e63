//! Batches of which the n-th is a function of n, so that the whole state after n batches is known, too.

use std::collections::BTreeMap;

use hearthkey::store::{MAX_VALUE_BYTES, Row};
use hearthkey_core::write::{Table, Write};

/// Each batch writes both, alike: half a batch shows at once.
const TABLES: [Table; 2] = [Table::Device, Table::Credential];

/// So many keys are written and deleted in turn.
const KEYS: u64 = 40;

const NEWEST: &[u8] = b"newest";

/// The n-th batch, from 1.
pub fn batch(n: u64) -> Vec<Write> {
    let value = vec![n as u8; (n * 257) as usize % (MAX_VALUE_BYTES + 1)];
    let mut writes = Vec::new();
    for table in TABLES {
        writes.push(Write::Put { table, key: NEWEST.to_vec(), value: n.to_be_bytes().to_vec() });
        writes.push(Write::Put { table, key: key(n), value: value.clone() });
        writes.push(Write::Delete { table, key: key(n + KEYS / 2) });
    }
    writes
}

/// All rows after the n-th batch.
pub fn rows_after(n: u64) -> Vec<Row> {
    let mut values = BTreeMap::new();
    // Whatever came earlier has been written or deleted since.
    for write in (n.saturating_sub(2 * KEYS) + 1..=n).flat_map(batch) {
        match write {
            Write::Put { table, key, value } => drop(values.insert((table, key), value)),
            Write::Delete { table, key } => drop(values.remove(&(table, key))),
        }
    }
    values.into_iter().map(|((table, key), value)| Row { table, key, value }).collect()
}

fn key(n: u64) -> Vec<u8> {
    format!("key-{:02}", n % KEYS).into_bytes()
}
