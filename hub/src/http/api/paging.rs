//! Lists in pages. A cursor is the key of the last item that was seen; the list goes on behind it, whatever came or went.

use super::Problem;
use crate::http::limits::{DEFAULT_PAGE_ITEMS, MAX_CURSOR_BYTES, MAX_PAGE_ITEMS};
use base64ct::{Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Serialize};

/// A list, or a page of it.
#[derive(Debug, Serialize)]
pub(super) struct Items<T> {
    items: Vec<T>,
    /// The cursor of the page that follows, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What a list without filters is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    limit: Option<usize>,
    cursor: Option<String>,
}

/// Which part of a list is wanted.
#[derive(Debug)]
pub(super) struct Page {
    limit: usize,
    after: Option<String>,
}

impl PageQuery {
    pub(super) fn page(self) -> Result<Page, Problem> {
        Page::new(self.limit, self.cursor.as_deref())
    }
}

impl Page {
    /// # Errors
    /// 422 for a length out of bounds, 400 for a cursor that no answer gave.
    pub(super) fn new(limit: Option<usize>, cursor: Option<&str>) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(DEFAULT_PAGE_ITEMS);
        if !(1..=MAX_PAGE_ITEMS).contains(&limit) {
            return Err(Problem::unprocessable(format!("a page has 1 to {MAX_PAGE_ITEMS} items; go on with `cursor`")));
        }
        let after = cursor.map(|cursor| {
            let bytes = Some(cursor).filter(|cursor| cursor.len() <= MAX_CURSOR_BYTES);
            let bytes = bytes.and_then(|cursor| Base64UrlUnpadded::decode_vec(cursor).ok());
            bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
                Problem::bad_request("the cursor is not one that an answer gave as `next`; begin without one")
                    .coded("invalid_cursor")
            })
        });
        Ok(Self { limit, after: after.transpose()? })
    }

    /// The page of `items`, which come in the order of their keys.
    pub(super) fn of<T>(&self, items: impl Iterator<Item = T>, key: impl Fn(&T) -> String) -> Items<T> {
        let mut rest = items.skip_while(|item| self.after.as_ref().is_some_and(|after| key(item) <= *after)).peekable();
        let items: Vec<T> = rest.by_ref().take(self.limit).collect();
        let next = rest.peek().and_then(|_| items.last()).map(|last| Base64UrlUnpadded::encode_string(key(last).as_bytes()));
        Items { items, next }
    }
}

impl<T> Items<T> {
    /// The same page of what `into` makes of each item.
    pub(super) fn map<U>(self, into: impl FnMut(T) -> U) -> Items<U> {
        Items { items: self.items.into_iter().map(into).collect(), next: self.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(names: &[&str], limit: usize) -> Vec<Vec<String>> {
        let mut pages = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = Page::new(Some(limit), cursor.as_deref()).expect("our own cursor");
            let Items { items, next } = page.of(names.iter().map(|name| (*name).to_owned()), String::clone);
            pages.push(items);
            match next {
                Some(next) => cursor = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn pages_hold_each_item_once_and_the_last_has_no_next() {
        let names = ["a", "a-1", "b", "c", "d"];
        for limit in 1..=6 {
            let pages = read_all(&names, limit);
            assert_eq!(pages.concat(), names, "{limit}");
            assert_eq!(pages.len(), names.len().div_ceil(limit), "{limit}: no empty page at the end");
        }
        assert_eq!(read_all(&[], 3), [Vec::<String>::new()]);
    }

    #[test]
    fn a_page_goes_on_although_the_item_of_its_cursor_is_gone() {
        let page = Page::new(Some(2), None).expect("legal").of(["a", "b", "c"].into_iter(), |name| (*name).to_owned());
        let rest = Page::new(Some(2), page.next.as_deref()).expect("our own");
        assert_eq!(rest.of(["a", "c"].into_iter(), |name| (*name).to_owned()).items, ["c"]);
    }

    #[test]
    fn lengths_and_cursors_out_of_bounds_are_refused() {
        for limit in [0, MAX_PAGE_ITEMS + 1, usize::MAX] {
            assert!(Page::new(Some(limit), None).is_err());
        }
        for cursor in ["!", "=", "_w", &"A".repeat(MAX_CURSOR_BYTES + 4)] {
            assert!(Page::new(None, Some(cursor)).is_err(), "{cursor}");
        }
    }
}
