//! Finds the subscriptions that match a topic, level by level. Knows nothing of what it holds.

use hearthkey_core::topic::{TopicFilter, TopicName};
use std::collections::HashMap;

/// Values filed under topic filters. `+` and `#` are levels like others, so memory is one node per level that is in use.
#[derive(Debug)]
pub(super) struct Trie<T> {
    root: Node<T>,
    values: usize,
}

#[derive(Debug)]
struct Node<T> {
    children: HashMap<Box<str>, Node<T>>,
    values: Vec<T>,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { root: Node::default(), values: 0 }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: HashMap::new(), values: Vec::new() }
    }
}

impl<T> Trie<T> {
    /// Files a value.
    pub(super) fn insert(&mut self, filter: &TopicFilter, value: T) {
        let mut node = &mut self.root;
        for level in filter.as_str().split('/') {
            node = node.children.entry(level.into()).or_default();
        }
        node.values.push(value);
        self.values += 1;
    }

    /// Removes the values of a filter that are meant, and the levels that hold nothing any more.
    pub(super) fn remove(&mut self, filter: &TopicFilter, is_meant: impl Fn(&T) -> bool) {
        let levels: Vec<_> = filter.as_str().split('/').collect();
        self.values -= self.root.remove(&levels, &is_meant);
    }

    /// Whether nothing is filed.
    #[must_use]
    pub(super) const fn is_empty(&self) -> bool {
        self.values == 0
    }

    /// Calls with each value whose filter matches (MQTT 5 section 4.7).
    pub(super) fn each_match<'a>(&'a self, topic: &TopicName, mut found: impl FnMut(&'a T)) {
        // A wildcard in the first level never matches a topic that begins with `$`.
        let hidden = topic.as_str().starts_with('$');
        self.root.each_match(Some(topic.as_str()), hidden, &mut found);
    }
}

impl<T> Node<T> {
    /// The recursion is as deep as a filter: at most `MAX_TOPIC_LEVELS`.
    fn each_match<'a>(&'a self, rest: Option<&str>, hidden: bool, found: &mut impl FnMut(&'a T)) {
        if !hidden && let Some(multi_level) = self.children.get("#") {
            multi_level.values.iter().for_each(&mut *found);
        }
        let Some(rest) = rest else {
            self.values.iter().for_each(found);
            return;
        };
        let (level, rest) = rest.split_once('/').map_or((rest, None), |(level, rest)| (level, Some(rest)));
        if let Some(child) = self.children.get(level) {
            child.each_match(rest, false, found);
        }
        if !hidden && let Some(single_level) = self.children.get("+") {
            single_level.each_match(rest, false, found);
        }
    }

    fn remove(&mut self, levels: &[&str], is_meant: &impl Fn(&T) -> bool) -> usize {
        let Some((level, levels)) = levels.split_first() else {
            let before = self.values.len();
            self.values.retain(|value| !is_meant(value));
            return before - self.values.len();
        };
        let Some(child) = self.children.get_mut(*level) else { return 0 };
        let removed = child.remove(levels, is_meant);
        if child.values.is_empty() && child.children.is_empty() {
            self.children.remove(*level);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![Just("a".to_owned()), Just("b".to_owned()), Just(String::new()), Just("$s".to_owned())]
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
            filters in proptest::collection::vec(filter(), 1..8), topics in proptest::collection::vec(topic(), 1..8)
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
            prop_assert!(trie.is_empty() && trie.root.children.is_empty(), "nothing stays behind");
        }
    }
}
