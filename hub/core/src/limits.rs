//! Every bound of the decisions, in one place, each with its reason. What happens at a bound stands where it is checked.

use crate::time::Seconds;

/// A home has fewer than 500 devices; more is a mistake or an attack.
pub const MAX_DEVICES: usize = 4_096;
/// Longest topic name or filter, in bytes. MQTT allows 65,535; no scheme of ours needs 256.
pub const MAX_TOPIC_BYTES: usize = 512;
/// Most levels of a topic: bounds the work of a match.
pub const MAX_TOPIC_LEVELS: usize = 32;
/// Most permissions in a profile; the owner must be able to keep them apart.
pub const MAX_PERMISSIONS_PER_PROFILE: usize = 16;
/// Longest scope of a profile, in bytes: a token response stays within the 1,024 bytes that a device has for it.
pub const MAX_SCOPE_BYTES_PER_PROFILE: usize = 128;
/// Most topic filters in a profile: each publish is compared with each of them.
pub const MAX_FILTERS_PER_PROFILE: usize = 64;
/// Most resource servers besides the hub for which one profile lets tokens be asked.
pub const MAX_RESOURCES_PER_PROFILE: usize = 8;
/// Longest name of a resource server, in bytes: a token response stays within the 1,024 bytes that a device has for it.
pub const MAX_RESOURCE_BYTES: usize = 128;
/// Most profiles that an owner can write.
pub const MAX_PROFILES: usize = 128;
/// Largest profile file, in bytes: it must fit into one stored row.
pub const MAX_PROFILE_BYTES: usize = 3_500;
/// Most children that one gateway acts for.
pub const MAX_CHILDREN: usize = 64;
/// Most scope values in one request.
pub const MAX_SCOPES: usize = 32;
/// Largest form body of the token endpoint, in bytes (docs/protocol.md).
pub const MAX_FORM_BYTES: usize = 4_096;
/// Most parameters of one form.
pub const MAX_FORM_PARAMETERS: usize = 32;
/// Longest `jti` of a client assertion, in bytes (docs/protocol.md).
pub const MAX_JTI_BYTES: usize = 64;
/// Longest life of a client assertion: it bounds the memory of used `jti`s.
pub const MAX_ASSERTION_LIFETIME: Seconds = Seconds(300);
/// Clock difference that is forgiven (seconds of skew lock devices out: keycloak#8966).
pub const CLOCK_SKEW: Seconds = Seconds(60);
/// Most remembered `jti`s of one client; at the bound its requests are refused with `slow_down` until the oldest ends.
pub const MAX_USED_ASSERTIONS_PER_CLIENT: usize = 256;
/// Most remembered `jti`s of all clients: some 3 MB, and ten times what the largest home needs.
pub const MAX_USED_ASSERTIONS: usize = 65_536;
/// Most keys of one client at a time: two for a rotation, two to spare.
pub const MAX_KEYS_PER_CLIENT: usize = 4;
/// Most secrets of one client at a time.
pub const MAX_SECRETS_PER_CLIENT: usize = 4;
/// Longest description of a device's software, in characters; a row must hold it beside the keys and children.
pub const MAX_SOFTWARE_CHARACTERS: usize = 128;
/// How long an enrolment code can be used.
pub const ENROLMENT_CODE_LIFETIME: Seconds = Seconds::minutes(15);
/// How long the key that a rotation replaces still works after the first use of the new one, where the owner does not say.
pub const ROTATION_GRACE: Seconds = Seconds::minutes(60);
/// Longest that what a rotation or a roll replaces works beside the new one: two credentials for good are no rotation.
pub const MAX_OVERLAP: Seconds = Seconds::days(30);
/// Default life of an access token.
pub const ACCESS_TOKEN_LIFETIME: Seconds = Seconds(300);
/// Shortest and longest life that a profile may choose for access tokens.
pub const ACCESS_TOKEN_LIFETIME_RANGE: std::ops::RangeInclusive<u64> = 10..=86_400;
/// Most access tokens denied one by one until they expire; at the bound all tokens of the
/// client that asks end, by its epoch.
pub const MAX_DENIED_TOKENS: usize = 10_000;
/// Largest message on `dev/<id>/twin/desired`, in bytes: as that of a command.
pub const MAX_TWIN_DESIRED_BYTES: usize = 1_024;
/// Largest message on `dev/<id>/twin/reported` that is kept, in bytes; a larger one is passed on and not kept.
pub const MAX_TWIN_REPORTED_BYTES: usize = 2_048;
/// Largest command body, in bytes (docs/protocol.md).
pub const MAX_COMMAND_BYTES: usize = 1_024;
/// Largest answer to a command that is heard, in bytes; a larger one is passed on and not heard.
pub const MAX_ACKNOWLEDGEMENT_BYTES: usize = 1_024;
/// Most commands of one device that wait for an end; a further one is refused.
pub const MAX_PENDING_COMMANDS_PER_DEVICE: usize = 16;
/// Most ended commands remembered for one device when a further one is sent, so that an owner can ask what became of them.
pub const MAX_ENDED_COMMANDS_PER_DEVICE: usize = 16;
/// How far the numbers of commands go ahead when a backup is restored: more than a home sends a device between two backups.
pub const COMMANDS_SINCE_BACKUP: u64 = 1 << 20;
/// More than a home sends one device in each second, so that what a backup restored later counts from was not reached before.
pub const COMMANDS_PER_SECOND: u64 = 1 << 10;
/// Longest time to live of a command.
pub const MAX_COMMAND_TTL: Seconds = Seconds::days(7);
/// How long after its time to live a device may work at a command that it took; then the command counts as failed.
pub const COMMAND_EXECUTION_TIME: Seconds = Seconds::minutes(60);
/// Most audit records kept; the oldest leave, and the chain's anchor moves on.
pub const MAX_AUDIT_RECORDS: u64 = 200_000;
/// Denials of one actor, action and reason within this span become one record, so a flood cannot fill the disk.
pub const AUDIT_AGGREGATION: Seconds = Seconds(60);
/// Most kinds of event that are told apart within such a span; further ones are counted together.
pub const MAX_AUDIT_KINDS: usize = 256;
/// Most people of a home.
pub const MAX_USERS: usize = 64;
/// Most credentials that a hub keeps: PATs, API keys and client secrets together.
pub const MAX_CREDENTIALS: usize = 8_192;
/// Most characters in what a credential is called.
pub const MAX_CREDENTIAL_NAME: usize = 64;
/// Most personal access tokens that one user makes, replaced ones included until they run out. Each may have a successor that was
/// not used yet, so twice as many are kept at most.
pub const MAX_PERSONAL_ACCESS_TOKENS_PER_USER: usize = 64;
/// Longest life of a personal access token.
pub const MAX_PERSONAL_ACCESS_TOKEN_LIFETIME: Seconds = Seconds::days(366);
/// Life of a personal access token whose maker names none.
pub const PERSONAL_ACCESS_TOKEN_LIFETIME: Seconds = Seconds::days(30);
/// Longest life of a token that a password alone gives.
pub const MAX_LOGIN_LIFETIME: Seconds = Seconds::days(30);
/// Most devices that one token is limited to; it must fit into a stored row.
pub const MAX_DEVICES_PER_TOKEN: usize = 64;
/// Most API keys of one integration or legacy device.
pub const MAX_KEYS_PER_HOLDER: usize = 16;
/// Most networks that one API key is limited to.
pub const MAX_NETWORKS_PER_KEY: usize = 16;
/// How exactly the last use of a credential is known: each use would be a write otherwise.
pub const LAST_USED_RESOLUTION: Seconds = Seconds::minutes(60);
/// A credential that nobody used for so long is pointed out.
pub const UNUSED_AFTER: Seconds = Seconds::days(180);
/// A credential that ends within this is pointed out.
pub const EXPIRES_SOON: Seconds = Seconds::days(7);
