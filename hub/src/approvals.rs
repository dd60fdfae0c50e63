//! Those who ask without a credential and wait for a person: devices that join without a string, and people who log in from
//! another machine (RFC 8628). Kept in memory; decisions about the registry are the registry's.

use crate::{
    clock, entropy,
    hub::{Hub, NotDecided, Refusal, TokenResponse},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use hearthkey_core::{
    DeviceId, Seconds, UnixTime,
    device_authorization::{CannotWait, DeviceAuthorizations, INTERVAL, JoinCommitment, Poll, UserCode, WAIT, base64url},
    jwt::PublicKey,
    oauth::{ErrorCode, OAuthError},
    profile::ProfileName,
    registry::{
        Context, CredentialRefused, DeviceRecord, DeviceRefused, ManageDevices, NewDevice, NewEnrolment, NewPersonalAccessToken,
        NotPermitted, Registry, UserPermit,
    },
    scope::Scope,
    secret::{CredentialKind, Secret},
    session::Authority,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longest join window: an open door that nobody remembers is no door.
pub const MAX_JOIN_WINDOW: Seconds = Seconds::minutes(15);
/// Life of a token that a login without a wish gets.
pub const LOGIN_LIFETIME: Seconds = Seconds(12 * 3_600);

/// Most that wait from one source: a household sets up one thing after the other, and none may fill the list for all.
pub const MAX_WAITING_PER_SOURCE: usize = 8;
/// `client_id` of the command line on another machine.
pub const LOGIN_CLIENT: &str = "hearthkey-cli";
/// `client_id` of a device that has no name yet.
pub const JOIN_CLIENT: &str = "hearthkey-join";

/// The list of those who wait, and the join window.
#[derive(Debug, Default)]
pub struct Approvals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: DeviceAuthorizations<Wanted, Granted>,
    open_until: Option<UnixTime>,
}

/// What somebody who waits wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// To become a device of the home.
    Join {
        /// Its key.
        public_key: PublicKey,
        /// What it says it is.
        software: String,
        /// Where it asks from.
        source: String,
        /// What it committed to, if it does not know the home's CA and is to find out by the code.
        commitment: Option<JoinCommitment>,
    },
    /// To act for whoever approves.
    Login {
        /// Where it asks from.
        source: String,
    },
}

/// What somebody was granted.
#[derive(Debug, Clone)]
pub enum Granted {
    /// The device is enrolled; it proves its key from now on.
    Join {
        /// What it is called.
        name: DeviceId,
        /// The thumbprint of the key.
        thumbprint: Box<str>,
    },
    /// A personal access token of the person who approved.
    Login {
        /// The token.
        secret: Arc<Secret>,
        /// What it may do.
        scope: Scope,
        /// How long it lives.
        expires_in: Seconds,
    },
}

/// What the one who asks is told (RFC 8628 section 3.2).
#[derive(Debug)]
pub struct Started {
    /// What it polls with.
    pub device_code: Secret,
    /// What a person compares.
    pub user_code: UserCode,
    /// How long it may wait.
    pub expires_in: Seconds,
    /// How often it may poll.
    pub interval: Seconds,
}

/// Why an approval is refused.
#[derive(Debug, thiserror::Error)]
pub enum ApprovalRefused {
    /// Nobody waits under that code.
    #[error("nobody waits under that code; `hearthkey approve` without a code lists those who do")]
    Unknown,
    /// A device wants to join, a person to log in: the approval was for the other.
    #[error("{0}")]
    OtherKind(&'static str),
    /// Who approves may not do this, or not any more.
    #[error("{0}")]
    NotPermitted(#[from] NotPermitted),
    /// The registry refused the device.
    #[error("{0}")]
    Device(#[from] DeviceRefused),
    /// The registry refused the token.
    #[error("{0}")]
    Credential(#[from] CredentialRefused),
}

impl Wanted {
    /// Where it is asked from.
    #[must_use]
    pub fn source(&self) -> &str {
        match self {
            Self::Join { source, .. } | Self::Login { source } => source,
        }
    }

    /// The `client_id` that it is asked with.
    #[must_use]
    pub fn client_id(&self) -> &'static str {
        match self {
            Self::Join { .. } => JOIN_CLIENT,
            Self::Login { .. } => LOGIN_CLIENT,
        }
    }
}

impl Approvals {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the join window until a time, at most [`MAX_JOIN_WINDOW`] from now; one that is past closes it.
    pub fn open_join_window(&self, _permit: &UserPermit<'_, ManageDevices>, until: UnixTime) {
        self.lock().open_until = Some(until.min(clock::now().plus(MAX_JOIN_WINDOW)));
    }

    /// Those who wait, with their codes and how long they wait.
    #[must_use]
    pub fn waiting(&self) -> Vec<(UserCode, Wanted, UnixTime)> {
        let now = clock::now();
        self.lock().waiting.waiting(now).map(|(code, wanted, expires_at)| (code.clone(), wanted.clone(), expires_at)).collect()
    }

    /// What the one wants who waits under a code.
    #[must_use]
    pub fn wanted(&self, user_code: &UserCode) -> Option<Wanted> {
        self.lock().waiting.wanted(user_code, clock::now()).cloned()
    }

    /// Denies the one who waits under a code.
    pub fn deny(&self, user_code: &UserCode) -> bool {
        self.lock().waiting.answer(user_code, None, clock::now())
    }
}

impl Hub {
    /// Puts somebody on the list of those who wait.
    ///
    /// # Errors
    /// `access_denied` for a device while no join window is open, `slow_down` when too many wait.
    pub fn ask_for_approval(&self, wanted: Wanted) -> Result<Started, OAuthError> {
        let now = clock::now();
        let mut state = self.approvals().lock();
        let open = state.open_until.is_some_and(|until| now < until);
        if matches!(wanted, Wanted::Join { .. }) && !open {
            let how = "no device may join now; the owner opens a window with `hearthkey join --for 3m`";
            return Err(OAuthError::new(ErrorCode::AccessDenied, how));
        }
        let from_there = state.waiting.unanswered(now).filter(|other| other.source() == wanted.source()).count();
        if from_there >= MAX_WAITING_PER_SOURCE {
            let how = format!("{from_there} requests from {} wait for approval already; let one be answered", wanted.source());
            return Err(OAuthError::new(ErrorCode::SlowDown, how));
        }
        let device_code = Base64UrlUnpadded::encode_string(&entropy::random::<32>());
        let hash = self.pepper().hash(device_code.as_bytes());
        let user_code = UserCode::from_random(entropy::random());
        let started = match wanted {
            Wanted::Join { commitment: Some(_), .. } => state.waiting.start_unsettled(&hash, user_code.clone(), wanted, now),
            Wanted::Join { commitment: None, .. } | Wanted::Login { .. } => {
                state.waiting.start(&hash, user_code.clone(), wanted, now)
            }
        };
        started.map_err(|why: CannotWait| OAuthError::new(ErrorCode::SlowDown, why.to_string()))?;
        Ok(Started { device_code: Secret::new(device_code), user_code, expires_in: WAIT, interval: INTERVAL })
    }

    /// Lets a device in that the owner has compared, under a name and with a profile.
    ///
    /// # Errors
    /// [`ApprovalRefused`].
    pub async fn approve_join(
        &self,
        authority: &Authority,
        user_code: &UserCode,
        name: DeviceId,
        profile: ProfileName,
        context: &Context,
    ) -> Result<DeviceRecord, NotDecided<ApprovalRefused>> {
        let wanted = self.approvals().lock().waiting.wanted(user_code, context.now).cloned();
        let (public_key, software) = match wanted {
            Some(Wanted::Join { public_key, software, .. }) => (public_key, software),
            Some(Wanted::Login { .. }) => {
                return Err(NotDecided::Refused(ApprovalRefused::OtherKind("a person waits under that code, not a device")));
            }
            None => return Err(NotDecided::Refused(ApprovalRefused::Unknown)),
        };
        let thumbprint = public_key.thumbprint();
        let new = NewDevice { id: name.clone(), profile, children: Vec::new() };
        let enrolment = NewEnrolment::Key { public_key, software };
        let device = self.add_device(authority, new, enrolment, context).await.map_err(|error| match error {
            NotDecided::Refused(Refusal::NotPermitted(why)) => NotDecided::Refused(ApprovalRefused::from(why)),
            NotDecided::Refused(Refusal::Policy(why)) => NotDecided::Refused(ApprovalRefused::from(why)),
            NotDecided::Unavailable(why) => NotDecided::Unavailable(why),
        })?;
        // If it has given up meanwhile it is enrolled all the same: its key is known.
        self.approvals().lock().waiting.answer(user_code, Some(Granted::Join { name, thumbprint }), context.now);
        Ok(device)
    }

    /// Lets a person's other machine in: it gets a personal access token of the approver.
    ///
    /// # Errors
    /// [`ApprovalRefused`].
    pub async fn approve_login(
        &self,
        authority: &Authority,
        user_code: &UserCode,
        scope: Option<Scope>,
        lifetime: Option<Seconds>,
        context: &Context,
    ) -> Result<(), NotDecided<ApprovalRefused>> {
        let wanted = self.approvals().lock().waiting.wanted(user_code, context.now).cloned();
        let source = match wanted {
            Some(Wanted::Login { source }) => source,
            Some(Wanted::Join { .. }) => {
                return Err(NotDecided::Refused(ApprovalRefused::OtherKind(
                    "a device waits under that code; give it a name and a profile",
                )));
            }
            None => return Err(NotDecided::Refused(ApprovalRefused::Unknown)),
        };
        let expires_in = lifetime.unwrap_or(LOGIN_LIFETIME);
        let new = NewPersonalAccessToken { name: format!("login from {source}"), scope, devices: None, lifetime: expires_in };
        let (fresh, secret) = self.new_credential(CredentialKind::PersonalAccessToken);
        let decision = |registry: &Registry| {
            let permit = registry.permit_user(authority, clock::now())?;
            registry.create_personal_access_token(&permit, new, fresh, context).map_err(ApprovalRefused::from)
        };
        let record = self.decide(decision).await?;
        let granted = Granted::Login { secret: Arc::new(secret), scope: record.scope, expires_in };
        if self.approvals().lock().waiting.answer(user_code, Some(granted), context.now) {
            Ok(())
        } else {
            Err(NotDecided::Refused(ApprovalRefused::Unknown))
        }
    }

    /// The token endpoint's answer to a poll (RFC 8628 section 3.4).
    ///
    /// # Errors
    /// `authorization_pending`, `slow_down`, `access_denied`, `expired_token`.
    pub async fn poll_approval(
        self: &Arc<Self>,
        client_id: &str,
        device_code: &str,
        nonce: Option<&str>,
        context: &Context,
    ) -> Result<TokenResponse, OAuthError> {
        let hash = self.pepper().hash(device_code.as_bytes());
        let answer = {
            let mut state = self.approvals().lock();
            match state.waiting.wanted_by(&hash, context.now) {
                // RFC 8628 3.4: a code is good for the client that it was given to.
                Some(wanted) if wanted.client_id() == client_id => {
                    let code = |share: &UserCode, wanted: &Wanted| match wanted {
                        Wanted::Join { public_key, commitment: Some(commitment), .. } => {
                            commitment.code(&self.ca_sha256(), &public_key.point()?[1..], &base64url(nonce?)?, share)
                        }
                        Wanted::Join { .. } | Wanted::Login { .. } => None,
                    };
                    if !state.waiting.settle(&hash, code, context.now) {
                        let why = "nonce must be what the commitment was made of: 16 bytes, base64url without padding";
                        return Err(OAuthError::new(ErrorCode::InvalidRequest, why));
                    }
                    state.waiting.poll(&hash, context.now)
                }
                _ => Poll::Expired,
            }
        };
        let refused = |code, why: &str| Err(OAuthError::new(code, why));
        match answer {
            Poll::Pending => refused(ErrorCode::AuthorizationPending, "nobody has approved yet"),
            Poll::SlowDown { interval } => refused(ErrorCode::SlowDown, &format!("ask every {} s at most", interval.0)),
            Poll::Denied => refused(ErrorCode::AccessDenied, "the owner said no"),
            Poll::Expired => refused(ErrorCode::ExpiredToken, "the code is unknown, used or has expired; ask anew"),
            Poll::Granted(Granted::Login { secret, scope, expires_in }) => self.login_response(&secret, &scope, expires_in),
            Poll::Granted(Granted::Join { name, thumbprint }) => self.token_for_joined(&name, &thumbprint, context).await,
        }
    }
}
