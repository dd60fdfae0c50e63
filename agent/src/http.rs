//! A client for one HTTP/1.1 request and its answer, without sockets: enrolment needs no more (RFC 9112).

use crate::buffer::{Buffer, BufferFull};
use crate::time::{UnixTime, decimal};
use core::fmt::Write as _;

/// An answer that the device does not read, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpError {
    /// Not an HTTP/1 status line and header.
    Malformed,
    /// The answer is longer than the device's buffer.
    TooLong,
    /// No single, plain Content-Length: chunked answers are not read.
    Length,
}

/// A whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The status code, 200..=599: interim answers (1xx) are skipped.
    pub status: u16,
    /// The `Date` header, if it holds one.
    pub date: Option<UnixTime>,
    /// The body.
    pub body: &'a [u8],
}

/// Writes a POST of JSON with a bearer credential, asking to close the connection after the answer.
///
/// # Errors
/// [`BufferFull`] if it does not fit `out`.
pub fn write_post(
    out: &mut Buffer<'_>,
    path: &str,
    authority: Authority<'_>,
    bearer: &[u8],
    body: &[u8],
) -> Result<(), BufferFull> {
    write!(out, "POST {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer ")?;
    out.push_base64url(bearer)?;
    write!(out, "\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    out.push(body)
}

/// Writes a POST of a form, asking to close the connection after the answer.
///
/// # Errors
/// [`BufferFull`] if it does not fit `out`.
pub fn write_form(out: &mut Buffer<'_>, path: &str, authority: Authority<'_>, form: &[u8]) -> Result<(), BufferFull> {
    write!(out, "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/x-www-form-urlencoded\r\n")?;
    write!(out, "Content-Length: {}\r\nConnection: close\r\n\r\n", form.len())?;
    out.push(form)
}

/// Host and port as the `Host` header wants them: an IPv6 literal in brackets.
#[derive(Debug, Clone, Copy)]
pub struct Authority<'a> {
    /// DNS name or IP literal.
    pub host: &'a str,
    /// TCP port.
    pub port: u16,
}

impl core::fmt::Display for Authority<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads an answer from the bytes received so far. `None` while more must come.
/// `capacity` is how many bytes the caller can hold in all.
///
/// # Errors
/// [`HttpError`] as soon as the bytes cannot become an answer.
pub fn read_response(received: &[u8], capacity: usize) -> Result<Option<Response<'_>>, HttpError> {
    let mut rest = received;
    loop {
        let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else {
            return if received.len() >= capacity { Err(HttpError::TooLong) } else { Ok(None) };
        };
        let (head, body) = rest.split_at(end + 4);
        let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.trim_ascii_end());
        let status = status_code(lines.next().unwrap_or_default())?;
        if (100..200).contains(&status) {
            rest = body;
            continue;
        }
        let (mut date, mut length) = (None, None);
        for line in lines.filter(|line| !line.is_empty()) {
            let colon = line.iter().position(|byte| *byte == b':').ok_or(HttpError::Malformed)?;
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            if name.eq_ignore_ascii_case(b"date") {
                date = core::str::from_utf8(value).ok().and_then(UnixTime::from_http_date);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                return Err(HttpError::Length);
            } else if name.eq_ignore_ascii_case(b"content-length") {
                let value = decimal(value).and_then(|value| usize::try_from(value).ok()).ok_or(HttpError::Length)?;
                if length.replace(value).is_some() {
                    return Err(HttpError::Length);
                }
            }
        }
        let length = match (length, status) {
            (_, 204 | 304) => 0,
            (Some(length), _) => length,
            (None, _) => return Err(HttpError::Length),
        };
        if length > capacity.saturating_sub(received.len() - body.len()) {
            return Err(HttpError::TooLong);
        }
        return Ok(body.get(..length).map(|body| Response { status, date, body }));
    }
}

fn status_code(line: &[u8]) -> Result<u16, HttpError> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 ")).ok_or(HttpError::Malformed)?;
    let (code, after) = rest.split_at_checked(3).ok_or(HttpError::Malformed)?;
    let code = decimal(code).and_then(|code| u16::try_from(code).ok()).filter(|code| (100..600).contains(code));
    match after.first() {
        None | Some(b' ') => code.ok_or(HttpError::Malformed),
        Some(_) => Err(HttpError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nContent-Length: 2\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n{}";

    #[test]
    fn an_answer_is_read_once_it_is_whole() {
        for end in 0..ANSWER.len() {
            assert_eq!(read_response(&ANSWER[..end], 1024), Ok(None), "after {end} bytes");
        }
        let answer = read_response(ANSWER, 1024).expect("valid").expect("whole");
        assert_eq!((answer.status, answer.body), (201, b"{}".as_slice()));
        assert_eq!(answer.date, Some(UnixTime::from_secs(784_111_777)));
    }

    #[test]
    fn an_interim_answer_is_skipped() {
        let answer = [b"HTTP/1.1 100 Continue\r\n\r\n".as_slice(), ANSWER].concat();
        assert_eq!(read_response(&answer, 1024).expect("valid").expect("whole").status, 201);
    }

    #[test]
    fn what_is_not_an_answer_or_does_not_fit_is_refused() {
        let refused = |bytes: &[u8], capacity| read_response(bytes, capacity).expect_err("refused");
        assert_eq!(refused(b"SSH-2.0-x\r\n\r\n", 1024), HttpError::Malformed);
        assert_eq!(refused(b"HTTP/1.1 20 OK\r\n\r\n", 1024), HttpError::Malformed);
        assert_eq!(refused(b"HTTP/1.1 200 OK\r\nx\r\n\r\n", 1024), HttpError::Malformed);
        assert_eq!(refused(b"HTTP/1.1 200 OK\r\n\r\n", 1024), HttpError::Length);
        assert_eq!(refused(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 1024), HttpError::Length);
        assert_eq!(refused(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 1024), HttpError::Length);
        assert_eq!(refused(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", 1024), HttpError::TooLong);
        assert_eq!(refused(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", 1024), HttpError::Length);
        assert_eq!(refused(&[b'x'; 1024], 1024), HttpError::TooLong);
    }

    #[test]
    fn an_ipv6_host_is_written_in_brackets() {
        let mut bytes = [0; 256];
        let mut out = Buffer::new(&mut bytes);
        write_post(&mut out, "/x", Authority { host: "::1", port: 8443 }, b"\0\0\0", b"{}").expect("fits");
        let text = core::str::from_utf8(out.written()).expect("ascii");
        assert!(text.starts_with("POST /x HTTP/1.1\r\nHost: [::1]:8443\r\nAuthorization: Bearer AAAA\r\n"), "{text}");
        assert!(text.ends_with("Content-Length: 2\r\nConnection: close\r\n\r\n{}"), "{text}");
    }
}
