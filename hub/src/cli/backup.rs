//! `hearthkey backup`: writes everything that the hub of this machine keeps to one file.
//!
//! A hub that runs has the store to itself: it is asked to write a backup into its own directory, and that is copied. So a backup
//! never passes a socket, and only who may read the data directory gets it.

use super::{
    args::{Backup, Global},
    client::Client,
    context::{Context, ContextRef, LOCAL, shell_quoted},
    failure::{Exit, Failure},
    output::Output,
    waiting_for,
};
use crate::store::{self, StoreError};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest wait for a hub that writes a backup: some 3 GB at the 5 MB/s of a slow SD card, which the hub reads as well.
const WRITING_TIMEOUT: Duration = Duration::from_secs(20 * 60);

pub(super) fn back_up(args: &Backup, global: &Global, data: &Path, out: &mut Output) -> Result<Exit, Failure> {
    let refused = |error: StoreError| Failure::new(Exit::Refused, error.to_string());
    match &global.context {
        Some(ContextRef::Named(name)) if name.as_str() == LOCAL => {}
        Some(_) => {
            let what = "a backup is made on the machine of the hub, from its data directory";
            return Err(Failure::new(Exit::Usage, what).next("leave --context and HEARTHKEY_CONTEXT away, and add --data DIR"));
        }
        None => {}
    }
    if !args.force && args.file.symlink_metadata().is_ok() {
        let what = format!("{} is there already; name another file, or add --force to replace it", args.file.display());
        return Err(Failure::new(Exit::Refused, what));
    }
    if !data.join("keys").is_dir() {
        let what = format!("{} is no data directory of a hub; name the one to back up with --data", data.display());
        return Err(Failure::new(Exit::Refused, what));
    }
    let (rows, is_running) = match store::back_up_stopped(data, &args.file) {
        Err(StoreError::InUse(_)) => (store::copy_backup(&written_by_the_hub(data)?, &args.file).map_err(refused)?, true),
        stopped => (stopped.map_err(refused)?, false),
    };
    let document = json!({ "backup": args.file, "rows": rows, "written_by": if is_running { "hub" } else { "command" } });
    let file = shell_quoted(&args.file);
    out.done(
        &document,
        format!("wrote {rows} rows to {file}; `hearthkey restore {file}` brings them back while the hub is stopped"),
    )?;
    out.note(format!("the home's CA and keys are not part of it: keep a copy of ca and keys in {} as well", data.display()));
    Ok(Exit::Done)
}

fn written_by_the_hub(data: &Path) -> Result<PathBuf, Failure> {
    let client = Client::new(Context::local(Some(data))?)?;
    let answer = waiting_for(client.post_patiently(&["backups"], &json!({}), WRITING_TIMEOUT))?;
    // The hub may say it from the directory that it was started in.
    let name = answer["file"].as_str().and_then(|file| Path::new(file).file_name());
    let unclear = || Failure::new(Exit::Refused, "the hub did not say where the backup is; is it of another version?");
    Ok(data.join("backups").join(name.ok_or_else(unclear)?))
}
