//! One simulated thermostat from its enrolment to its farewell: the real agent with this host under it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearthkey_agent::{
    Agent, Backoff, Config, Ended, Ending, EnrolError, Enrolled, Enrolment, HubLocation, Identity, Joining, Platform as _,
    Software, UnixTime, Workspace, enrol, join,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::application::{SimulatedThermostat, in_words};
use crate::enrolment::EnrolmentString;
use crate::event::SimEventKind;
use crate::fleet::Reporter;
use crate::handle::Orders;
use crate::host::Host;
use crate::storage::Storage;

/// RFC 7591 `software_id`: what the hub shows as the device's product.
const SOFTWARE_ID: &str = "hearthkey-sim-thermostat";

/// The waits between two attempts to enrol: a thousand devices do not come back to a hub as one.
const RETRY: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(15), ..Backoff::DEFAULT };

/// What a device is given before it starts.
#[derive(Debug)]
pub struct DeviceOptions {
    /// Needed when the storage holds no identity; not used otherwise, unless `erase` is set.
    pub enrolment: Option<EnrolmentString>,
    /// Where to ask to join, for a device that is given no string.
    pub join: Option<HubLocation>,
    /// Forget a stored identity and enrol anew: after a revocation, or to move to another home.
    pub erase: bool,
    /// Where the identity is kept.
    pub storage: Storage,
    /// Time between two reports.
    pub interval: Duration,
    /// Draws the room and the moments of the reports.
    pub seed: u64,
    /// How many seconds pass in the room per second.
    pub time_scale: u32,
    /// How the agent keeps its connection: keep alive, session expiry, back-off.
    pub agent: Config,
    /// How far the device's idea of the date is off when it first connects, in seconds; none for a device that takes the
    /// date from the hub.
    pub clock_error: Option<i64>,
}

impl DeviceOptions {
    /// A device that has enrolled before, or that is given an enrolment string as well.
    pub fn stored_in(storage: Storage) -> Self {
        Self {
            enrolment: None,
            join: None,
            erase: false,
            storage,
            interval: Duration::from_secs(5),
            seed: 1,
            time_scale: 60,
            agent: Config::DEFAULT,
            clock_error: None,
        }
    }

    /// A device that enrols and keeps its identity in memory only.
    pub fn enrolling(enrolment: EnrolmentString) -> Self {
        Self { enrolment: Some(enrolment), ..Self::stored_in(Storage::memory()) }
    }
}

/// Runs a device until it is asked to stop, is revoked, or cannot become a device of this home.
///
/// Dropping the future is a power cut: what is left in `options` is what a device still has afterwards.
pub(crate) async fn run(options: &mut DeviceOptions, orders: &Orders, mut reporter: Reporter, starting: &Arc<Semaphore>) {
    let DeviceOptions { enrolment, join, erase, storage, interval, seed, time_scale, agent, clock_error } = options;
    let mut host = Host::new(storage);
    let mut workspace = Box::new(Workspace::new());
    // What is needed only until the agent runs ends with this block: the future holds it no longer.
    let (mut agent, mut thermostat) = {
        let started = tokio::select! {
            started = start(&mut host, enrolment, join.as_ref(), erase, &mut workspace, &mut reporter, starting) => started,
            () = orders.stopping() => return reporter.report(SimEventKind::Stopped { failure: None }),
        };
        let (Enrolled { identity, mut clock }, permit) = match started {
            Ok(started) => started,
            Err(failure) => return reporter.report(SimEventKind::Stopped { failure: Some(failure) }),
        };
        let wrong_date = clock_error.map(|error| UnixTime::from_secs(system_date().saturating_add_signed(error)));
        if let Some(date) = wrong_date {
            clock.learn(host.now(), date);
        }
        let wrong_clock = wrong_date.map(|date| (Instant::now(), date));
        let orders = orders.clone();
        let thermostat = SimulatedThermostat::new(*seed, *interval, *time_scale, orders, reporter, permit, wrong_clock);
        (Agent::with_clock(identity, *agent, clock), thermostat)
    };
    let ended = agent.run(&mut host, &mut thermostat, &mut workspace).await;
    thermostat.reporter().report(SimEventKind::Stopped {
        failure: match ended {
            Ended::Left(_) => None,
            Ended::Revoked => Some("the hub revoked this device; enrol it anew with a new string and --erase".to_owned()),
        },
    });
}

/// Waits for this device's turn, then takes its identity from storage or enrols.
async fn start(
    host: &mut Host<'_>,
    enrolment: &mut Option<EnrolmentString>,
    hub_to_join: Option<&HubLocation>,
    erase: &mut bool,
    workspace: &mut Workspace,
    reporter: &mut Reporter,
    starting: &Arc<Semaphore>,
) -> Result<(Enrolled, Option<OwnedSemaphorePermit>), String> {
    // Nobody closes the semaphore; without a permit the device would only start sooner.
    let permit = Arc::clone(starting).acquire_owned().await.ok();
    let is_admitted_anew = enrolment.is_some() || hub_to_join.is_some();
    if std::mem::take(erase) && is_admitted_anew {
        Identity::erase(host).map_err(|error| EnrolError::Identity(error.into()).to_string())?;
    }
    let stored = Identity::load(host).map_err(|error| EnrolError::Identity(error).to_string())?;
    let enrolled = match (stored, enrolment.as_ref(), hub_to_join) {
        (Some(identity), ..) => {
            if is_admitted_anew {
                let client_id = identity.client_id();
                tracing::warn!("enrolled as {client_id} already: it does not enrol again; --erase enrols anew");
            }
            Enrolled { identity, clock: hearthkey_agent::Clock::unset() }
        }
        (None, Some(string), _) => enrol_with_patience(host, string, workspace, reporter).await?,
        (None, None, Some(hub)) => ask_to_join(host, hub, workspace, reporter).await?,
        (None, None, None) => {
            return Err(
                "not enrolled: give it an enrolment string of `hearthkey device add NAME --profile thermostat`, or a hub to join"
                    .to_owned(),
            );
        }
    };
    // Used up, or not needed.
    *enrolment = None;
    reporter.identify(enrolled.identity.client_id());
    Ok((enrolled, permit))
}

/// Seconds since 1970 by this host's clock; a device has none, but a skewed one must be off from something.
fn system_date() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long a device waits after each of its failures in a row.
fn pauses(seed: u64) -> impl Iterator<Item = Duration> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..).map(move |failures| RETRY.delay(failures, random.u64(..)))
}

/// Enrols, trying again while the hub cannot be reached: the same string is good until it is used.
async fn enrol_with_patience(
    host: &mut Host<'_>,
    string: &EnrolmentString,
    workspace: &mut Workspace,
    reporter: &mut Reporter,
) -> Result<Enrolled, String> {
    let enrolment = Enrolment::parse(string.as_str()).map_err(|error| error.to_string())?;
    let software = Software { id: SOFTWARE_ID, version: env!("CARGO_PKG_VERSION") };
    let began = Instant::now();
    let mut seed = [0; 8];
    host.entropy(&mut seed);
    let mut pauses = pauses(u64::from_be_bytes(seed));
    loop {
        match enrol(host, &enrolment, software, workspace).await {
            Ok(enrolled) => {
                reporter.identify(enrolled.identity.client_id());
                reporter.report(SimEventKind::Enrolled { took: began.elapsed() });
                return Ok(enrolled);
            }
            Err(error) if error.may_pass() => {
                let reason = match error {
                    EnrolError::Connect(failed) => in_words(&Ending::ConnectFailed(failed)),
                    error => error.to_string(),
                };
                reporter.report(SimEventKind::Disconnected { reason });
                let pause = pauses.next().unwrap_or(RETRY.cap);
                reporter.report(SimEventKind::Retrying { after: pause });
                tokio::time::sleep(pause).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Asks the hub's owner to be let in, and shows the code to compare meanwhile. The owner's word is final: no second attempt.
async fn ask_to_join(
    host: &mut Host<'_>,
    hub: &HubLocation,
    workspace: &mut Workspace,
    reporter: &mut Reporter,
) -> Result<Enrolled, String> {
    let software = Software { id: SOFTWARE_ID, version: env!("CARGO_PKG_VERSION") };
    let began = Instant::now();
    let progress = |joining| match joining {
        Joining::Compare { code, expires_in } => {
            reporter.report(SimEventKind::Joining { code: code.to_string(), expires_in });
        }
        Joining::Interrupted => {
            reporter.report(SimEventKind::Disconnected { reason: "the hub could not be asked; it is asked again".to_owned() });
        }
    };
    // It has no button; who runs it sees the code and who answered.
    let enrolled = join(host, hub, software, workspace, progress, async |_| true).await.map_err(|error| error.to_string())?;
    reporter.identify(enrolled.identity.client_id());
    reporter.report(SimEventKind::Enrolled { took: began.elapsed() });
    Ok(enrolled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_could_not_enrol_together_do_not_try_again_together() {
        let of = |seed| pauses(seed).take(20).collect::<Vec<_>>();
        let (first, second) = (of(1), of(2));
        assert!(first.iter().zip(&second).all(|(first, second)| first != second), "{first:?} {second:?}");
        assert!(first.iter().all(|pause| *pause <= RETRY.cap) && first.iter().max() > Some(&(RETRY.cap / 2)), "{first:?}");
        assert!(first[0] <= RETRY.base, "{first:?}");
    }
}
