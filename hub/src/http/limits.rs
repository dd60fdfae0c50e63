//! Every bound of the HTTP side, in one place, each with its reason. What happens at a bound stands where it is checked.

use std::time::Duration;

/// Most connections in all: a home has fewer than 500 devices, and each asks seldom; owners' programs come on top.
/// At the bound the connection that has waited longest for its peer is closed.
pub const MAX_CONNECTIONS: usize = 1_024;
/// Most connections of one source, so that one worm-ridden camera does not use up what all share. Same consequence.
pub const MAX_CONNECTIONS_PER_SOURCE: usize = 512;
/// How long a TLS handshake may take: on a Cortex-M4 it takes about two seconds.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the header of a request may take, from its first byte or from the answer before: a header is one packet.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the body of a request may take: it has at most [`MAX_API_BODY_BYTES`].
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may stay without a request: longer than the pause between two clicks.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a peer may leave unacknowledged what was sent to it; then the system ends the connection. Linux only.
pub const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection that is asked to end may take for the answers under way.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// Largest header of a request, in bytes: an access token has under 1 KB. Beyond it the answer is 431.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Most fields in the header of a request: browsers send about 20. Beyond it the answer is 431.
pub const MAX_HEADER_FIELDS: usize = 64;
/// Most requests at once on one HTTP/2 connection: twice what one principal may leave open for long.
pub const MAX_HTTP2_STREAMS: u32 = 2 * MAX_STREAMS_PER_PRINCIPAL as u32;
/// Largest body of a registration, in bytes (docs/protocol.md); that of the token endpoint is the core's to say.
pub const MAX_REGISTRATION_BYTES: usize = 4_096;
/// Largest body of an API request, in bytes: the largest is a profile, under 4 KB.
pub const MAX_API_BODY_BYTES: usize = 16 * 1024;
/// Most that is taken in of a body that nobody reads, so that its sender sees the answer; beyond it the connection ends.
pub const MAX_LEFTOVER_BYTES: usize = 256 * 1024;
/// How long that may take.
pub const LEFTOVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Most decisions that wait for the disk at once: a group commit takes them together, more only wait longer.
pub const MAX_CONCURRENT_DECISIONS: usize = 256;
/// How long a request waits for its turn to decide; then the answer is 503.
pub const DECISION_WAIT: Duration = Duration::from_secs(5);
/// What a peer is told to wait when the hub is full.
pub const RETRY_AFTER_FULL: Duration = Duration::from_secs(2);
/// Most event streams and waiting requests at once: a few owners with a few windows each. Beyond it the answer is 503.
pub const MAX_STREAMS: usize = 64;
/// Most event streams and waiting requests of one principal. Beyond it the answer is 429.
pub const MAX_STREAMS_PER_PRINCIPAL: usize = 16;
/// Most WebSockets at once: browsers and the few devices that can nothing else. Each takes one of [`MAX_CONNECTIONS`] for as
/// long as it lasts, so the rest is left for requests. Beyond it the answer is 503.
pub const MAX_WEBSOCKETS: usize = 256;
/// Most WebSockets of one source: a proxy in the home, a browser with many windows. Beyond it the answer is 429.
pub const MAX_WEBSOCKETS_PER_SOURCE: usize = 64;
/// Bytes of one WebSocket frame that the hub sends.
pub const WEBSOCKET_FRAME_BYTES: usize = 16 * 1024;
/// How often a silent event stream sends a comment, so that proxies and dead peers show.
pub const STREAM_HEARTBEAT: Duration = Duration::from_secs(15);
/// Events that wait for a slow reader of a stream; at the bound the stream waits for it, and what is followed may lose some.
pub const MAX_WAITING_EVENTS: usize = 64;
/// How long a reader of a stream may take nothing at all before its stream ends.
pub const STREAM_STALL: Duration = Duration::from_secs(30);
/// Longest wait for a command's end in one request: proxies cut after 60 s.
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// Most audit entries in one answer.
pub const MAX_AUDIT_PAGE: usize = 1_000;
/// Items that a page of a list has, where the caller does not say.
pub const DEFAULT_PAGE_ITEMS: usize = 100;
/// Most items of one page.
pub const MAX_PAGE_ITEMS: usize = 500;
/// Longest cursor: a name or an id in base64url.
pub const MAX_CURSOR_BYTES: usize = 128;
/// Most readings of long parts of the audit log at once: each may go through [`MAX_AUDIT_RECORDS`] entries.
///
/// [`MAX_AUDIT_RECORDS`]: hearthkey_core::limits::MAX_AUDIT_RECORDS
pub const MAX_AUDIT_READINGS: usize = 2;
/// Longest `Idempotency-Key`: a UUID has 36 characters.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 64;
/// How long an answer is kept for a repetition: longer than any client tries again.
pub const IDEMPOTENCY_KEPT_FOR: Duration = Duration::from_secs(10 * 60);
/// Most answers that are kept. At the bound the oldest makes room, or the request is refused with 503.
pub const MAX_IDEMPOTENT_ANSWERS: usize = 512;
/// Most answers that are kept for one principal, so that no script uses up what all share. Same consequence.
pub const MAX_IDEMPOTENT_ANSWERS_PER_PRINCIPAL: usize = 128;
/// Longest answer that is kept, in bytes: what is created is under 4 KB.
pub const MAX_IDEMPOTENT_ANSWER_BYTES: usize = 16 * 1024;
/// Most logins of one source under way: each takes a hash of some 30 ms.
pub const MAX_LOGINS_PER_SOURCE: usize = 4;
/// Longest `X-Request-Id` of a peer that is taken over; another gets one of ours.
pub const MAX_REQUEST_ID_BYTES: usize = 64;
/// Longest `software_id` and `software_version` together, in characters.
pub const MAX_SOFTWARE_CHARACTERS: usize = 128;
