//! Reads the certificates that a home CA issues: DER, strictly, and only the fields that the verifier judges.
//! Decides nothing about trust.

use crate::der::{
    BIT_STRING, BOOLEAN, Der, GENERALIZED_TIME, INTEGER, Malformed, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, UTC_TIME, Value,
};
use crate::keys::PublicKey;
use crate::time::{UnixTime, decimal};

/// One certificate, borrowed from the bytes it was read from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Certificate<'a> {
    /// The signed part, header included.
    pub(crate) to_be_signed: &'a [u8],
    /// Issuer name, DER.
    pub(crate) issuer: &'a [u8],
    /// Subject name, DER.
    pub(crate) subject: &'a [u8],
    pub(crate) validity: Validity,
    pub(crate) public_key: PublicKey,
    /// ECDSA signature, DER.
    pub(crate) signature: &'a [u8],
    pub(crate) extensions: Extensions<'a>,
}

/// From when to when a certificate holds, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

impl Validity {
    pub(crate) fn holds_at(&self, time: UnixTime) -> bool {
        self.not_before <= time && time <= self.not_after
    }
}

/// The extensions that bear on trust (RFC 5280 4.2.1); absent ones stay `None`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extensions<'a> {
    /// basicConstraints: is it a CA.
    pub(crate) is_ca: Option<bool>,
    /// keyUsage: its bits, the first one (digitalSignature) highest.
    pub(crate) key_usage: Option<u8>,
    /// extKeyUsage: the OIDs, DER.
    pub(crate) extended_key_usage: Option<&'a [u8]>,
    /// subjectAltName: the names, DER.
    pub(crate) subject_alternative_name: Option<&'a [u8]>,
    /// A critical extension that this reader does not know.
    pub(crate) has_unknown_critical: bool,
}

/// keyUsage bit 0.
pub(crate) const DIGITAL_SIGNATURE: u8 = 0x80;
/// keyUsage bit 5.
pub(crate) const KEY_CERT_SIGN: u8 = 0x04;

/// `[2]` in GeneralName: dNSName.
const DNS_NAME: u8 = 0x82;

const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
/// id-ecPublicKey with prime256v1, the whole AlgorithmIdentifier content.
const EC_P256: &[u8] =
    &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];

impl<'a> Certificate<'a> {
    /// Reads one DER certificate that fills `der` exactly; only of the kind that a home CA issues (X.509 v3, P-256, ECDSA with
    /// SHA-256).
    pub(crate) fn parse(der: &'a [u8]) -> Result<Self, Malformed> {
        let mut outer = Der(der);
        let mut certificate = Der(outer.expect(SEQUENCE)?.content);
        outer.end()?;
        let to_be_signed = certificate.expect(SEQUENCE)?;
        let outer_algorithm = certificate.expect(SEQUENCE)?;
        let signature = bit_string(certificate.expect(BIT_STRING)?.content)?;
        certificate.end()?;

        let mut fields = Der(to_be_signed.content);
        let mut version = Der(fields.expect(0xa0)?.content);
        if version.expect(INTEGER)?.content != [2] {
            return Err(Malformed); // Only v3 has extensions.
        }
        version.end()?;
        fields.expect(INTEGER)?; // serial number
        let inner_algorithm = fields.expect(SEQUENCE)?;
        if inner_algorithm.whole != outer_algorithm.whole {
            return Err(Malformed);
        }
        let mut algorithm = Der(inner_algorithm.content);
        if algorithm.expect(OBJECT_IDENTIFIER)?.content != ECDSA_WITH_SHA256 {
            return Err(Malformed);
        }
        algorithm.end()?;
        let issuer = fields.expect(SEQUENCE)?.whole;
        let mut validity = Der(fields.expect(SEQUENCE)?.content);
        let not_before = time(&validity.next()?)?;
        let not_after = time(&validity.next()?)?;
        validity.end()?;
        let subject = fields.expect(SEQUENCE)?.whole;
        let public_key = public_key(fields.expect(SEQUENCE)?.content)?;
        let extensions = match fields.next_if(0xa3)? {
            Some(wrapper) => extensions(wrapper.content)?,
            None => Extensions::default(),
        };
        fields.end()?; // Unique identifiers, obsolete since RFC 5280, end here as well.
        Ok(Self {
            to_be_signed: to_be_signed.whole,
            issuer,
            subject,
            validity: Validity { not_before, not_after },
            public_key,
            signature,
            extensions,
        })
    }
}

impl Extensions<'_> {
    /// Whether extKeyUsage names serverAuth; `anyExtendedKeyUsage` does not count.
    pub(crate) fn allows_server_authentication(&self) -> bool {
        let mut usages = Der(self.extended_key_usage.unwrap_or_default());
        while !usages.is_empty() {
            match usages.expect(OBJECT_IDENTIFIER) {
                Ok(usage) if usage.content == SERVER_AUTH => return true,
                Ok(_) => {}
                Err(Malformed) => return false,
            }
        }
        false
    }

    /// Whether a DNS name of subjectAltName is `host`, letter case aside. No wildcards; the common name never counts.
    pub(crate) fn names_host(&self, host: &str) -> bool {
        let mut names = Der(self.subject_alternative_name.unwrap_or_default());
        while !names.is_empty() {
            match names.next() {
                Ok(name) if name.tag == DNS_NAME && name.content.eq_ignore_ascii_case(host.as_bytes()) => {
                    return true;
                }
                Ok(_) => {}
                Err(Malformed) => return false,
            }
        }
        false
    }
}

fn bit_string(content: &[u8]) -> Result<&[u8], Malformed> {
    match content.split_first() {
        Some((0, bits)) => Ok(bits),
        _ => Err(Malformed),
    }
}

fn public_key(content: &[u8]) -> Result<PublicKey, Malformed> {
    let mut fields = Der(content);
    if fields.expect(SEQUENCE)?.content != EC_P256 {
        return Err(Malformed);
    }
    let point = bit_string(fields.expect(BIT_STRING)?.content)?;
    fields.end()?;
    PublicKey::from_sec1(point).ok_or(Malformed)
}

/// `YYMMDDHHMMSSZ` (a year below 50 is of the 21st century) or `YYYYMMDDHHMMSSZ` (RFC 5280 4.1.2.5).
fn time(value: &Value<'_>) -> Result<UnixTime, Malformed> {
    let (year_digits, century) = match value.tag {
        UTC_TIME => (2, Some(())),
        GENERALIZED_TIME => (4, None),
        _ => return Err(Malformed),
    };
    if value.content.len() != year_digits + 11 || value.content.last() != Some(&b'Z') {
        return Err(Malformed);
    }
    let (year, rest) = value.content.split_at(year_digits);
    let mut year = decimal(year).ok_or(Malformed)?;
    if century.is_some() {
        year += if year < 50 { 2000 } else { 1900 };
    }
    let field = |at: usize| rest.get(at..at + 2).and_then(decimal).ok_or(Malformed);
    UnixTime::from_calendar(year, field(0)?, field(2)?, field(4)?, field(6)?, field(8)?).ok_or(Malformed)
}

fn extensions(content: &[u8]) -> Result<Extensions<'_>, Malformed> {
    let mut wrapper = Der(content);
    let mut list = Der(wrapper.expect(SEQUENCE)?.content);
    wrapper.end()?;
    let mut found = Extensions::default();
    while !list.is_empty() {
        let mut extension = Der(list.expect(SEQUENCE)?.content);
        let oid = extension.expect(OBJECT_IDENTIFIER)?.content;
        let critical = match extension.next_if(BOOLEAN)?.map(|value| value.content) {
            None => false,
            Some([0xff]) => true,
            Some(_) => return Err(Malformed),
        };
        let value = extension.expect(OCTET_STRING)?.content;
        extension.end()?;
        match oid {
            [0x55, 0x1d, 19] => set_once(&mut found.is_ca, basic_constraints(value)?)?,
            [0x55, 0x1d, 15] => set_once(&mut found.key_usage, key_usage(value)?)?,
            [0x55, 0x1d, 37] => set_once(&mut found.extended_key_usage, sequence(value)?)?,
            [0x55, 0x1d, 17] => set_once(&mut found.subject_alternative_name, sequence(value)?)?,
            _ if critical => found.has_unknown_critical = true,
            _ => {}
        }
    }
    Ok(found)
}

/// RFC 5280 4.2: a certificate must not hold the same extension twice.
fn set_once<T>(place: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed),
    }
}

fn sequence(value: &[u8]) -> Result<&[u8], Malformed> {
    let mut value = Der(value);
    let content = value.expect(SEQUENCE)?.content;
    value.end()?;
    Ok(content)
}

fn basic_constraints(value: &[u8]) -> Result<bool, Malformed> {
    let mut fields = Der(sequence(value)?);
    let is_ca = match fields.next_if(BOOLEAN)?.map(|value| value.content) {
        None | Some([0]) => false,
        Some([0xff]) => true,
        Some(_) => return Err(Malformed),
    };
    fields.next_if(INTEGER)?; // pathLenConstraint: one level is all that the verifier walks.
    fields.end()?;
    Ok(is_ca)
}

fn key_usage(value: &[u8]) -> Result<u8, Malformed> {
    let mut outer = Der(value);
    let content = outer.expect(BIT_STRING)?.content;
    outer.end()?;
    match content {
        [unused @ 0..=7, first, ..] if content.len() <= 3 => {
            let mask = if content.len() == 2 { 0xff_u8 << unused } else { 0xff };
            Ok(first & mask)
        }
        _ => Err(Malformed),
    }
}
