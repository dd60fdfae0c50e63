//! `hearthkey restore`: puts a backup in the place of a store that no hub uses.

use super::{
    args::Restore,
    failure::{Exit, Failure},
    output::Output,
};
use crate::store;
use serde_json::json;
use std::path::Path;

pub(super) fn restore(args: &Restore, data: &Path, out: &mut Output) -> Result<Exit, Failure> {
    // Elsewhere it would be a home without the keys that its credentials are checked by.
    if !data.join("keys").is_dir() {
        let what = format!("{} is no data directory of a hub; name the one to restore with --data", data.display());
        return Err(Failure::new(Exit::Refused, what));
    }
    let restored = store::restore(data, &args.file).map_err(|error| Failure::new(Exit::Refused, error.to_string()))?;
    let document = json!({ "backup": restored.backup, "rows": restored.rows, "moved_to": restored.moved_to });
    let aside = restored.moved_to.map(|path| format!("; what was there is in {}", path.display())).unwrap_or_default();
    let sentence = format!("restored {} rows of {}{aside}", restored.rows, restored.backup.display());
    out.done(&document, sentence)?;
    out.note("what was decided after the backup is forgotten, revocations included: look at `hearthkey device list`");
    Ok(Exit::Done)
}
