//! Reads DER strictly (ITU-T X.690): definite lengths in their shortest form, and no integer with bytes too many.
//! Knows nothing of what the values mean.

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;

/// Not DER, or not what is read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A cursor over DER values. Every length is checked against what is left; no recursion.
#[derive(Clone, Copy)]
pub(crate) struct Der<'a>(pub(crate) &'a [u8]);

pub(crate) struct Value<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    /// Tag, length and content.
    pub(crate) whole: &'a [u8],
}

impl<'a> Der<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn next(&mut self) -> Result<Value<'a>, Malformed> {
        let input = self.0;
        let (&tag, &first) = (input.first().ok_or(Malformed)?, input.get(1).ok_or(Malformed)?);
        if tag & 0x1f == 0x1f {
            return Err(Malformed); // Multi-byte tags occur in nothing that we read.
        }
        let (length, header) = match first {
            0..=0x7f => (usize::from(first), 2),
            0x81 => (usize::from(*input.get(2).ok_or(Malformed)?), 3),
            0x82 => (usize::from(*input.get(2).ok_or(Malformed)?) << 8 | usize::from(*input.get(3).ok_or(Malformed)?), 4),
            _ => return Err(Malformed),
        };
        // DER: the shortest form only.
        if (header == 3 && length < 0x80) || (header == 4 && length < 0x100) {
            return Err(Malformed);
        }
        let whole = input.get(..header + length).ok_or(Malformed)?;
        let content = whole.get(header..).ok_or(Malformed)?;
        self.0 = input.get(header + length..).ok_or(Malformed)?;
        Ok(Value { tag, content, whole })
    }

    pub(crate) fn expect(&mut self, tag: u8) -> Result<Value<'a>, Malformed> {
        let value = self.next()?;
        if value.tag == tag { Ok(value) } else { Err(Malformed) }
    }

    pub(crate) fn next_if(&mut self, tag: u8) -> Result<Option<Value<'a>>, Malformed> {
        if self.0.first() == Some(&tag) { self.next().map(Some) } else { Ok(None) }
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// A number of at most 32 bytes that is not negative, most significant byte first.
    pub(crate) fn unsigned(&mut self) -> Result<[u8; 32], Malformed> {
        let digits = match self.expect(INTEGER)?.content {
            [0, rest @ ..] if rest.first().is_none_or(|first| *first >= 0x80) => rest,
            digits @ [1..=0x7f, ..] => digits,
            _ => return Err(Malformed),
        };
        let mut number = [0; 32];
        let leading = number.len().checked_sub(digits.len()).ok_or(Malformed)?;
        number.get_mut(leading..).ok_or(Malformed)?.copy_from_slice(digits);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_encoding() {
        let read = |content: &[u8]| {
            let der = [&[INTEGER, content.len() as u8], content].concat();
            Der(&der).unsigned().ok().map(|number| (number[0], number[31]))
        };
        assert_eq!(read(&[0]), Some((0, 0)));
        assert_eq!(read(&[5]), Some((0, 5)));
        assert_eq!(read(&[0, 0x80]), Some((0, 0x80)));
        assert_eq!(read(&[0x7f; 32]), Some((0x7f, 0x7f)));
        assert_eq!(read(&[&[0][..], &[0xff; 32]].concat()), Some((0xff, 0xff)));
        assert_eq!(read(&[]), None, "no digits");
        assert_eq!(read(&[0, 5]), None, "a zero too many");
        assert_eq!(read(&[0x80]), None, "negative");
        assert_eq!(read(&[0xff; 32]), None, "negative");
        assert_eq!(read(&[1; 33]), None, "too large");
    }
}
