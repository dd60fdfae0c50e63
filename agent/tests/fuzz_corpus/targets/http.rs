//! The answer to a registration or a poll.

use super::Reading;
use hearthkey_agent::http::{HttpError, Response, read_response};
use hearthkey_agent::sans_io::readers;
use hearthkey_agent::{JoinError, UnixTime};

const CAPACITY: usize = 768;

type Read<'a> = Result<Option<Response<'a>>, HttpError>;

pub(crate) fn http(data: &[u8]) -> Reading {
    http_by(read_response, data)
}

/// Whatever the pieces in which an answer arrives: the same answer, or the same refusal. What was read reads back.
pub(crate) fn http_by(read: impl Fn(&[u8], usize) -> Read<'_>, data: &[u8]) -> Reading {
    let data = data.get(..CAPACITY).unwrap_or(data);
    let whole = read(data, CAPACITY);
    let first = (0..=data.len()).find_map(|end| read(&data[..end], CAPACITY).transpose());
    assert_eq!(whole, first.transpose(), "in single bytes");
    let Ok(Some(response)) = whole else { return Reading::Refused };
    assert!((200..600).contains(&response.status), "{}", response.status);
    let date = response.date.map(written_date).map(|date| format!("date:{date}\r\n")).unwrap_or_default();
    let head = format!("HTTP/1.1 {}\r\n{date}content-length: {}\r\n\r\n", response.status, response.body.len());
    let again = [head.as_bytes(), response.body].concat();
    assert_eq!(read(&again, again.len()), Ok(Some(response)), "written again");
    enrolment_answer(response);
    Reading::Taken
}

fn written_date(date: UnixTime) -> String {
    let seconds = i64::try_from(date.as_secs()).expect("a year of four digits");
    let date = time::OffsetDateTime::from_unix_timestamp(seconds).expect("a year of four digits");
    let (day, month) = (&date.weekday().to_string()[..3], &date.month().to_string()[..3]);
    let (year, hour, minute, second) = (date.year(), date.hour(), date.minute(), date.second());
    format!("{day}, {:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT", date.day())
}

/// Whatever a hub answers, the device keeps little of it, and only what it can live with.
fn enrolment_answer(response: Response<'_>) {
    let Response { status, body, .. } = response;
    if let Some((client_id, issuer)) = readers::registration(body) {
        let (client_id, issuer) = (client_id.as_ref(), issuer.as_ref());
        assert!((1..=32).contains(&client_id.len()) && issuer.len() <= 96);
        assert!(client_id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')), "{client_id}");
        assert!(issuer.starts_with("https://") && !issuer.contains(['"', '\\', ' ']), "{issuer}");
        let again = serde_json::json!({ "client_id": client_id, "issuer": issuer }).to_string();
        let (same_client_id, same_issuer) = readers::registration(again.as_bytes()).expect("written again");
        assert_eq!((same_client_id.as_ref(), same_issuer.as_ref()), (client_id, issuer));
    }
    if let Some((share, expires_in, interval)) = readers::wait(body) {
        assert_eq!(share.to_string().len(), 9);
        assert!(expires_in.as_secs() <= 3_600 && (5..=60).contains(&interval.as_secs()));
    }
    match readers::poll(response) {
        Ok(is_granted) => assert_eq!(is_granted, status == 200),
        Err(JoinError::Refused(refusal)) => assert_eq!(refusal, readers::refusal(status, body)),
        Err(_) => {}
    }
    let said = readers::refusal(status, body);
    assert!(said.error.len() <= 48 && said.description.len() <= 160);
}
