//! Programs as children: what they print, how they end. No child outlives its test.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{env, fs};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::patience::{PATIENCE, within};

/// Where to find the binaries, if not beside the test: tests of what a package installed.
const BINARY_DIR: &str = "HEARTHKEY_BIN_DIR";

/// A command that runs one of our binaries, with nothing of this user's configuration.
///
/// # Panics
/// When the binary is missing, or older than its source: a test of yesterday's hub proves nothing.
pub fn binary(name: &str) -> Command {
    let dir = match env::var_os(BINARY_DIR) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let test = env::current_exe().expect("the test has a path");
            // target/debug/deps/<test>
            let dir = test.ancestors().nth(2).expect("the test lies in target/PROFILE/deps").to_owned();
            refuse_if_stale(&dir.join(name));
            dir
        }
    };
    let path = dir.join(name);
    assert!(path.is_file(), "{} is missing; build it first: cargo build -p hearthkey -p hearthkey-sim", path.display());
    let mut command = Command::new(path);
    for variable in ["HEARTHKEY_DATA", "HEARTHKEY_CONTEXT", "HEARTHKEY_CONFIG", "HEARTHKEY_ENROL", "CLICOLOR_FORCE"] {
        command.env_remove(variable);
    }
    command
}

/// cargo notes beside each binary what it was made of.
fn refuse_if_stale(binary: &std::path::Path) {
    let modified = |path: &std::path::Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let Ok(made_of) = fs::read_to_string(binary.with_extension("d")) else { return };
    let (Some(built), Some((_, sources))) = (modified(binary), made_of.split_once(": ")) else { return };
    let newer = |source: &&str| modified(source.as_ref()).is_some_and(|changed: SystemTime| changed > built);
    if let Some(source) = sources.split_whitespace().find(newer) {
        panic!("{} is older than {source}; build it first: cargo build -p hearthkey -p hearthkey-sim", binary.display());
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; 128 and the signal if one ended it.
    pub exit: i32,
    /// What it printed.
    pub out: String,
    /// What it noted on standard error.
    pub err: String,
}

impl Ran {
    /// What it printed as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        let documents = serde_json::Deserializer::from_str(&self.out).into_iter::<Value>();
        documents.last().expect("it printed something").unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Everything that it said.
    pub fn text(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

/// Runs a program to its end, with `input` on standard input.
///
/// # Panics
/// When it cannot be started or does not end.
pub async fn run(command: Command, input: &str) -> Ran {
    run_within(PATIENCE, command, input).await
}

/// As [`run`], for a program that takes its time.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub async fn run_within(patience: Duration, mut command: Command, input: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let name = format!("{:?}", command.as_std().get_program());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing may have closed it.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let ended = tokio::time::timeout(patience, child.wait_with_output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{name} does not end")).expect("a child can be awaited");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { exit: exit_code(output.status), out: text(output.stdout), err: text(output.stderr) }
}

/// A program that runs; it is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    /// If somebody may still type.
    terminal: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<String>,
    said: Arc<Mutex<Said>>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Said {
    out: String,
    err: String,
}

impl Running {
    /// Starts a program.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn start(command: Command) -> Self {
        Self::start_with_input(command, "")
    }

    /// Starts a program with `input` on standard input.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn start_with_input(command: Command, input: &str) -> Self {
        let mut running = Self::start_with_terminal(command);
        let input = input.to_owned();
        if let Some(mut stdin) = running.terminal.take() {
            // A program that reads nothing may have closed it.
            tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
        }
        running
    }

    /// Starts a program whose standard input stays open, to be [typed](Self::type_in) into.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn start_with_terminal(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let name = format!("{:?}", command.as_std().get_program());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let terminal = child.stdin.take();
        let said = Arc::new(Mutex::new(Said::default()));
        let (told, lines) = mpsc::unbounded_channel();
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (keep_out, keep_err) = (Arc::clone(&said), Arc::clone(&said));
        let readers = vec![
            tokio::spawn(read_lines(out, move |line| {
                push(&mut lock(&keep_out).out, &line);
                // Nobody has to listen.
                let _ = told.send(line);
            })),
            tokio::spawn(read_lines(err, move |line| push(&mut lock(&keep_err).err, &line))),
        ];
        Self { name, child, terminal, lines, said, readers }
    }

    /// Types into a program that was [started](Self::start_with_terminal) for that.
    ///
    /// # Panics
    /// When it takes no more input.
    pub async fn type_in(&mut self, text: &str) {
        let terminal = self.terminal.as_mut().expect("started with a terminal");
        terminal.write_all(text.as_bytes()).await.expect("it reads");
        terminal.flush().await.expect("it reads");
    }

    /// What `look` sees in the next line that shows it something; lines before that are passed over.
    ///
    /// # Panics
    /// When no such line comes.
    pub async fn line<T>(&mut self, what: &str, mut look: impl FnMut(&str) -> Option<T>) -> T {
        let said = Arc::clone(&self.said);
        let waiting = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = self.lines.recv().await {
                if let Some(seen) = look(&line) {
                    return Some(seen);
                }
            }
            None
        });
        match waiting.await {
            Ok(Some(seen)) => seen,
            Ok(None) => panic!("{} ended without {what}: {:?}", self.name, lock(&said)),
            Err(_) => panic!("{} never printed {what}: {:?}", self.name, lock(&said)),
        }
    }

    /// Like [`Self::line`], where each line is one JSON object; others are passed over.
    ///
    /// # Panics
    /// When no such line comes.
    pub async fn json<T>(&mut self, what: &str, mut look: impl FnMut(&Value) -> Option<T>) -> T {
        self.line(what, |line| look(&serde_json::from_str(line).ok()?)).await
    }

    /// All that it printed so far.
    pub fn out(&self) -> String {
        lock(&self.said).out.clone()
    }

    /// All that it noted on standard error so far.
    pub fn err(&self) -> String {
        lock(&self.said).err.clone()
    }

    /// Its process, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end: the exit code, 128 and the signal if one ended it. Everything that it said has been read then.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&mut self) -> i32 {
        let what = format!("the end of {}", self.name);
        let status = within(&what, self.child.wait()).await.expect("a child can be awaited");
        for reader in self.readers.drain(..) {
            reader.await.expect("reading does not panic");
        }
        exit_code(status)
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

async fn read_lines(stream: impl AsyncRead + Unpin, mut take: impl FnMut(String)) {
    let mut lines = BufReader::new(stream).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        take(String::from_utf8_lossy(&line).into_owned());
    }
}

fn push(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn lock(said: &Mutex<Said>) -> std::sync::MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}
