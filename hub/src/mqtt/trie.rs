//! Finds the subscriptions that match a topic, level by level. Knows nothing of what it holds.

use hearthkey_core::topic::{TopicFilter, TopicName};
use std::collections::HashMap;

/// Values filed under topic filters. Memory is one node per level that is in use.
#[derive(Debug)]
pub(super) struct Trie<T> {
    root: Node<T>,
    values: usize,
}

#[derive(Debug)]
struct Node<T> {
    named: Children<T>,
    /// What follows `+`.
    single_level: Option<Box<Node<T>>>,
    /// What ends here, and what ends with `#` here.
    values: Vec<T>,
    multi_level: Vec<T>,
}

/// The next levels by name. Most nodes have one: a map for each would be most of the memory.
#[derive(Debug)]
#[allow(clippy::box_collection)] // a map in place would double each node that has none
enum Children<T> {
    Few(Vec<(Box<str>, Node<T>)>),
    Many(Box<HashMap<Box<str>, Node<T>>>),
}

/// More children than this are looked up by hash.
const FEW_CHILDREN: usize = 8;

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { root: Node::default(), values: 0 }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { named: Children::Few(Vec::new()), single_level: None, values: Vec::new(), multi_level: Vec::new() }
    }
}

impl<T> Trie<T> {
    /// Files a value.
    pub(super) fn insert(&mut self, filter: &TopicFilter, value: T) {
        let mut node = &mut self.root;
        let mut multi_level = false;
        for level in filter.as_str().split('/') {
            match level {
                // Always the last level.
                "#" => multi_level = true,
                "+" => node = node.single_level.get_or_insert_default(),
                name => node = node.named.get_or_insert(name),
            }
        }
        let values = if multi_level { &mut node.multi_level } else { &mut node.values };
        if values.is_empty() {
            values.reserve_exact(1);
        }
        values.push(value);
        self.values += 1;
    }

    /// Removes the values of a filter that are meant, and the levels that hold nothing any more.
    pub(super) fn remove(&mut self, filter: &TopicFilter, is_meant: impl Fn(&T) -> bool) {
        self.values -= self.root.remove(Some(filter.as_str()), &is_meant);
    }

    /// Whether nothing is filed.
    #[must_use]
    pub(super) const fn is_empty(&self) -> bool {
        self.values == 0
    }

    /// Whether no level is left over.
    #[cfg(test)]
    pub(super) fn is_bare(&self) -> bool {
        self.is_empty() && self.root.is_bare()
    }

    /// Calls with each value whose filter matches (MQTT 5 section 4.7).
    pub(super) fn each_match<'a>(&'a self, topic: &TopicName, mut found: impl FnMut(&'a T)) {
        // A wildcard in the first level never matches a topic that begins with `$`.
        let hidden = topic.as_str().starts_with('$');
        self.root.each_match(Some(topic.as_str()), hidden, &mut found);
    }
}

/// The first level and what follows it, if anything does.
fn split_level(levels: &str) -> (&str, Option<&str>) {
    levels.split_once('/').map_or((levels, None), |(level, rest)| (level, Some(rest)))
}

impl<T> Node<T> {
    /// The recursion is as deep as a filter: at most `MAX_TOPIC_LEVELS`.
    fn each_match<'a>(&'a self, rest: Option<&str>, hidden: bool, found: &mut impl FnMut(&'a T)) {
        if !hidden {
            self.multi_level.iter().for_each(&mut *found);
        }
        let Some(rest) = rest else {
            self.values.iter().for_each(found);
            return;
        };
        let (level, rest) = split_level(rest);
        if let Some(child) = self.named.get(level) {
            child.each_match(rest, false, found);
        }
        if !hidden && let Some(single_level) = &self.single_level {
            single_level.each_match(rest, false, found);
        }
    }

    fn remove(&mut self, rest: Option<&str>, is_meant: &impl Fn(&T) -> bool) -> usize {
        let values = match rest {
            None => &mut self.values,
            Some("#") => &mut self.multi_level,
            Some(rest) => {
                let (level, rest) = split_level(rest);
                let child = if level == "+" { self.single_level.as_deref_mut() } else { self.named.get_mut(level) };
                let Some(child) = child else { return 0 };
                let removed = child.remove(rest, is_meant);
                if child.is_bare() {
                    match level {
                        "+" => self.single_level = None,
                        name => self.named.remove(name),
                    }
                }
                return removed;
            }
        };
        let before = values.len();
        values.retain(|value| !is_meant(value));
        before - values.len()
    }

    fn is_bare(&self) -> bool {
        self.values.is_empty() && self.multi_level.is_empty() && self.single_level.is_none() && self.named.is_empty()
    }
}

impl<T> Children<T> {
    fn get(&self, name: &str) -> Option<&Node<T>> {
        match self {
            Self::Few(children) => children.iter().find(|(known, _)| **known == *name).map(|(_, child)| child),
            Self::Many(children) => children.get(name),
        }
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Node<T>> {
        match self {
            Self::Few(children) => children.iter_mut().find(|(known, _)| **known == *name).map(|(_, child)| child),
            Self::Many(children) => children.get_mut(name),
        }
    }

    fn get_or_insert(&mut self, name: &str) -> &mut Node<T> {
        if let Self::Few(children) = self
            && children.len() >= FEW_CHILDREN
            && self.get(name).is_none()
            && let Self::Few(children) = self
        {
            *self = Self::Many(Box::new(children.drain(..).collect()));
        }
        match self {
            Self::Few(children) => {
                let index = children.iter().position(|(known, _)| **known == *name).unwrap_or_else(|| {
                    children.reserve_exact(1);
                    children.push((name.into(), Node::default()));
                    children.len() - 1
                });
                &mut children[index].1
            }
            Self::Many(children) => children.entry(name.into()).or_default(),
        }
    }

    fn remove(&mut self, name: &str) {
        match self {
            Self::Few(children) => children.retain(|(known, _)| **known != *name),
            Self::Many(children) => {
                children.remove(name);
                // A map does not give back its room by itself.
                if children.len() <= FEW_CHILDREN / 2 {
                    *self = Self::Few(children.drain().collect());
                } else if children.capacity() > 4 * children.len() {
                    children.shrink_to(2 * children.len());
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(children) => children.is_empty(),
            Self::Many(children) => children.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level() -> impl Strategy<Value = String> {
        // More names than a node keeps without a map.
        prop_oneof![4 => Just("a".to_owned()), 2 => "[b-p]", 1 => Just(String::new()), 1 => Just("$s".to_owned())]
    }

    fn topic() -> impl Strategy<Value = String> {
        proptest::collection::vec(level(), 1..4).prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let levels = proptest::collection::vec(prop_oneof![level(), Just("+".to_owned())], 0..4);
        (levels, any::<bool>()).prop_map(|(mut levels, multi_level)| {
            if multi_level || levels.is_empty() {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_trie_finds_what_each_filter_matches_by_itself(
            filters in proptest::collection::vec(filter(), 1..40), topics in proptest::collection::vec(topic(), 1..8)
        ) {
            let filters: Vec<_> = filters.iter().filter_map(|filter| TopicFilter::parse(filter).ok()).collect();
            let mut trie = Trie::default();
            for (index, filter) in filters.iter().enumerate() {
                trie.insert(filter, index);
            }
            for topic in topics.iter().filter_map(|topic| TopicName::parse(topic).ok()) {
                let mut found = Vec::new();
                trie.each_match(&topic, |index| found.push(*index));
                found.sort_unstable();
                let expected: Vec<_> = filters.iter().enumerate().filter(|(_, filter)| filter.matches(&topic)).map(|(index, _)| index).collect();
                prop_assert_eq!(found, expected, "{}", topic);
            }
            for (index, filter) in filters.iter().enumerate() {
                trie.remove(filter, |value| *value == index);
            }
            prop_assert!(trie.is_bare(), "nothing stays behind");
        }
    }
}
