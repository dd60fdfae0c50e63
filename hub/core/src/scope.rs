//! Permission names and sets of them: what a token's `scope` says (RFC 6749 section 3.3).

use crate::limits::MAX_SCOPES;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// The name of a permission: `[a-z0-9:._-]{1,32}`, a legal scope-token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PermissionName(Arc<str>);

/// A set of permissions, written as names in order with single spaces, and kept so: each session holds one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(Box<str>);

/// Why a text is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidScope {
    /// A name is outside its alphabet or length.
    #[error("a permission name has 1 to 32 characters of a-z, 0-9, `:`, `.`, `_` and `-`")]
    Name,
    /// More names than a request may hold.
    #[error("at most {MAX_SCOPES} permissions fit into one scope")]
    TooMany,
}

impl PermissionName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`InvalidScope::Name`].
    pub fn parse(text: &str) -> Result<Self, InvalidScope> {
        if Self::is_legal(text) { Ok(Self(text.into())) } else { Err(InvalidScope::Name) }
    }

    fn is_legal(text: &str) -> bool {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b":._-".contains(&byte);
        (1..=32).contains(&text.len()) && text.bytes().all(legal)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scope {
    /// Parses names separated by single spaces; the empty text is the empty scope.
    ///
    /// # Errors
    /// [`InvalidScope`].
    pub fn parse(text: &str) -> Result<Self, InvalidScope> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut names = BTreeSet::new();
        for (index, name) in text.split(' ').enumerate() {
            if index >= MAX_SCOPES {
                return Err(InvalidScope::TooMany);
            }
            if !PermissionName::is_legal(name) {
                return Err(InvalidScope::Name);
            }
            names.insert(name);
        }
        Ok(Self::of(names))
    }

    fn of(names: BTreeSet<&str>) -> Self {
        Self(names.into_iter().collect::<Vec<_>>().join(" ").into())
    }

    /// Whether each permission of this is also in `other`.
    #[must_use]
    pub fn is_subset_of(&self, other: &Self) -> bool {
        self.names().all(|name| other.contains(name))
    }

    /// The permissions that both hold.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self::of(self.names().filter(|name| other.contains(name)).collect())
    }

    /// Whether it holds a permission.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.names().any(|held| held == name)
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, in order.
    pub fn iter(&self) -> impl Iterator<Item = PermissionName> {
        self.names().map(|name| PermissionName(name.into()))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator(' ')
    }
}

impl FromIterator<PermissionName> for Scope {
    fn from_iter<I: IntoIterator<Item = PermissionName>>(names: I) -> Self {
        let names: Vec<_> = names.into_iter().collect();
        Self::of(names.iter().map(PermissionName::as_str).collect())
    }
}

impl fmt::Display for PermissionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for PermissionName {
    type Error = InvalidScope;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<PermissionName> for String {
    fn from(name: PermissionName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidScope;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scopes() -> impl Strategy<Value = Scope> {
        proptest::collection::vec("[a-e]{1,2}", 0..8)
            .prop_map(|names| names.iter().filter_map(|name| PermissionName::parse(name).ok()).collect())
    }

    proptest! {
        #[test]
        fn a_scope_reads_back_as_it_was_written(scope in scopes()) {
            prop_assert_eq!(Scope::parse(&scope.to_string()), Ok(scope));
        }

        #[test]
        fn an_intersection_never_exceeds_either_side(a in scopes(), b in scopes()) {
            let both = a.intersection(&b);
            prop_assert!(both.is_subset_of(&a) && both.is_subset_of(&b));
            prop_assert_eq!(both == a, a.is_subset_of(&b));
            prop_assert_eq!(&both, &b.intersection(&a));
        }

        #[test]
        fn subset_is_transitive_and_antisymmetric(a in scopes(), b in scopes(), c in scopes()) {
            let ab = a.intersection(&b);
            let abc = ab.intersection(&c);
            prop_assert!(abc.is_subset_of(&ab) && ab.is_subset_of(&a) && abc.is_subset_of(&a));
            prop_assert_eq!(a.is_subset_of(&b) && b.is_subset_of(&a), a == b);
        }
    }

    #[test]
    fn a_scope_with_foreign_characters_or_double_spaces_is_refused() {
        for bad in [" ", "a  b", "a ", " a", "A", "a\"", "a\\", "ä", "a\nb"] {
            assert!(Scope::parse(bad).is_err(), "{bad:?}");
        }
    }
}
