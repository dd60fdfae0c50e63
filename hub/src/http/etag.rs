//! Edits that are refused when somebody else was faster: `ETag` and `If-Match` (RFC 9110 section 13.1).

use super::{Http, problem::Problem};
use crate::hub::Hub;
use axum::{
    extract::FromRequestParts,
    http::{HeaderValue, StatusCode, header, request::Parts},
};
use serde::Serialize;
use std::sync::Arc;

/// Most entity tags that one `If-Match` may list.
const MAX_TAGS: usize = 16;

/// The name of one state of a resource: a keyed hash of its row, so that it tells nothing of a password's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntityTag(String);

/// On what state of the resource an edit rests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct IfMatch {
    wanted: Option<Wanted>,
    /// `If-None-Match: *`: only if there is none yet.
    only_new: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Any,
    OneOf(Vec<EntityTag>),
}

impl EntityTag {
    /// The tag of a stored row.
    pub(super) fn of(hub: &Hub, row: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(row).unwrap_or_default();
        let mut hash = hub.pepper().hash(&bytes).to_hex();
        hash.truncate(32);
        Self(hash)
    }

    /// The tag of a version that is no secret.
    pub(super) fn of_version(version: u64) -> Self {
        Self(version.to_string())
    }

    /// As a header field.
    pub(super) fn header(&self) -> HeaderValue {
        HeaderValue::try_from(format!("\"{}\"", self.0)).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
    }
}

impl IfMatch {
    /// Whether the edit may go on upon what is there now.
    ///
    /// # Errors
    /// 412.
    pub(super) fn holds(&self, current: Option<&EntityTag>) -> Result<(), Problem> {
        let failed = |detail: &str| Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail).coded("changed"));
        if self.only_new && current.is_some() {
            return failed("there is one already, and If-None-Match: * wants none");
        }
        match (&self.wanted, current) {
            (None, _) | (Some(Wanted::Any), Some(_)) => Ok(()),
            (Some(Wanted::OneOf(tags)), Some(current)) if tags.contains(current) => Ok(()),
            (Some(Wanted::OneOf(_)), Some(_)) => failed("it was changed since you read it; read it again, then edit that"),
            (Some(_), None) => failed("it is not there any more"),
        }
    }
}

impl FromRequestParts<Arc<Http>> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Http>) -> Result<Self, Problem> {
        let malformed = |name: &str| Problem::bad_request(format!("{name} must be * or the ETag of an earlier answer"));
        let mut tags = Vec::new();
        let mut wanted = None;
        for value in parts.headers.get_all(header::IF_MATCH) {
            let text = value.to_str().map_err(|_| malformed("If-Match"))?;
            for item in text.split(',').map(str::trim) {
                match item.strip_prefix('"').and_then(|item| item.strip_suffix('"')) {
                    _ if item == "*" => wanted = Some(Wanted::Any),
                    // A weak tag never matches here (section 13.1.1), so it may stand for none.
                    None if item.starts_with("W/\"") => tags.push(EntityTag(String::new())),
                    Some(tag) if tags.len() < MAX_TAGS => tags.push(EntityTag(tag.to_owned())),
                    _ => return Err(malformed("If-Match")),
                }
            }
        }
        if wanted.is_none() && !tags.is_empty() {
            wanted = Some(Wanted::OneOf(tags));
        }
        let only_new = match parts.headers.get(header::IF_NONE_MATCH) {
            None => false,
            Some(value) if value == "*" => true,
            Some(_) => return Err(Problem::bad_request("the only If-None-Match of an edit is *")),
        };
        Ok(Self { wanted, only_new })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> EntityTag {
        EntityTag(text.to_owned())
    }

    #[test]
    fn an_edit_goes_on_only_upon_the_state_that_it_rests_on() {
        let free = IfMatch::default();
        let any = IfMatch { wanted: Some(Wanted::Any), only_new: false };
        let exact = IfMatch { wanted: Some(Wanted::OneOf(vec![tag("a"), tag("b")])), only_new: false };
        let new = IfMatch { wanted: None, only_new: true };
        for (condition, current, holds) in [
            (&free, None, true),
            (&free, Some(tag("a")), true),
            (&any, Some(tag("x")), true),
            (&any, None, false),
            (&exact, Some(tag("b")), true),
            (&exact, Some(tag("c")), false),
            (&exact, None, false),
            (&new, None, true),
            (&new, Some(tag("a")), false),
        ] {
            assert_eq!(condition.holds(current.as_ref()).is_ok(), holds, "{condition:?} {current:?}");
        }
    }
}
