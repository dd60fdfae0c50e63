//! What an owner types, and what a flash memory gives back.

use super::Reading;
use base64ct::{Base64UrlUnpadded, Encoding as _};
use hearthkey_agent::sans_io::readers;
use hearthkey_agent::{Buffer, Enrolment, Identity, MAX_ENROLMENT_STRING};

/// An enrolment string reads back to the same text, and shows nothing but the address.
pub(crate) fn enrolment(data: &[u8]) -> Reading {
    let Ok(text) = std::str::from_utf8(data) else { return Reading::Refused };
    let read = Enrolment::parse(text);
    let Ok(enrolment) = &read else { return Reading::Refused };
    let hub = enrolment.hub();
    assert_eq!(format!("{enrolment:?}"), format!("Enrolment {{ hub: {hub:?}, .. }}"));
    assert!((1..=64).contains(&hub.host.len()) && hub.host.bytes().all(|byte| byte.is_ascii_graphic()));
    let encoded = text.trim().strip_prefix("hk1.").expect("its prefix");
    let mut bytes = [0; 128];
    let bytes = Base64UrlUnpadded::decode(encoded, &mut bytes).expect("what was read is base64url");
    let mut again = bytes[..48].to_vec();
    again.extend(hub.https_port.to_be_bytes());
    again.extend(hub.mqtt_port.to_be_bytes());
    again.extend(hub.host.as_bytes());
    let mut written = [0; MAX_ENROLMENT_STRING];
    assert_eq!(Base64UrlUnpadded::encode(&again, &mut written), Ok(encoded), "one string for one enrolment");
    Reading::Taken
}

/// An identity record reads back to the same bytes; a changed secret shows nowhere.
pub(crate) fn records(data: &[u8]) -> Reading {
    let read = |data: &[u8]| {
        let mut bytes = [0; Identity::MAX_BYTES];
        let mut out = Buffer::new(&mut bytes);
        let identity = readers::identity_record(data, &mut out);
        identity.map(|identity| (format!("{identity:?}"), out.written().to_vec()))
    };
    let Ok((shown, written)) = read(data) else { return Reading::Refused };
    assert_eq!(written, data, "written again");
    for at in 1..33 {
        let mut other = data.to_vec();
        other[at] ^= 1;
        if let Ok((other_shown, _)) = read(&other) {
            assert_eq!(shown, other_shown, "byte {at} of the secret");
        }
    }
    Reading::Taken
}
