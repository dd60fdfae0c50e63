//! Looks into each record between its decryption and the engine, which panics at some of what may be there.
//!
//! After the handshake the engine panics at a ServerHello, EncryptedExtensions, CertificateRequest, Certificate, CertificateVerify
//! or Finished, and it takes a message for as long as the fields within say, whatever its header says. So it is given this
//! cipher in place of its own, and sees no message of a handshake any more. A cipher is told nothing but a record and its key: a
//! [`mark`] in the record's header says that the handshake is over. Knows nothing of connections.

use super::guard::{APPLICATION_DATA, HANDSHAKE, MAX_RECORD};
use aes_gcm::Aes128Gcm;
use aes_gcm::aead::{AeadCore, AeadInPlace, Error, Key, KeyInit, KeySizeUser, Nonce, Tag};

const NEW_SESSION_TICKET: u8 = 4;

/// The version in every record of TLS 1.3 but a ClientHello's.
pub(super) const VERSION: [u8; 2] = [3, 3];
/// What the version is for the engine, which does not look, in a record that comes after the handshake.
const AFTER_HANDSHAKE: [u8; 2] = [3, 4];

/// Marks a record that begins so as one that comes after the handshake.
pub(super) fn mark(record: &mut [u8; MAX_RECORD]) {
    let [_, major, minor, ..] = record;
    [*major, *minor] = AFTER_HANDSHAKE;
}

/// AES-128-GCM that decrypts nothing which the engine could not bear.
pub(super) struct ContentCipher(Aes128Gcm);

impl KeySizeUser for ContentCipher {
    type KeySize = <Aes128Gcm as KeySizeUser>::KeySize;
}

impl KeyInit for ContentCipher {
    fn new(key: &Key<Self>) -> Self {
        Self(Aes128Gcm::new(key))
    }
}

impl AeadCore for ContentCipher {
    type NonceSize = <Aes128Gcm as AeadCore>::NonceSize;
    type TagSize = <Aes128Gcm as AeadCore>::TagSize;
    type CiphertextOverhead = <Aes128Gcm as AeadCore>::CiphertextOverhead;
}

impl AeadInPlace for ContentCipher {
    fn encrypt_in_place_detached(&self, nonce: &Nonce<Self>, header: &[u8], content: &mut [u8]) -> Result<Tag<Self>, Error> {
        self.0.encrypt_in_place_detached(nonce, header, content)
    }

    /// What is illegal becomes padding throughout, for which the engine ends the connection, and otherwise than for a record that
    /// does not decrypt (RFC 8446 5.4 and 5.2). Tickets become a record without content: nobody here has a use for them.
    fn decrypt_in_place_detached(
        &self,
        nonce: &Nonce<Self>,
        header: &[u8],
        content: &mut [u8],
        tag: &Tag<Self>,
    ) -> Result<(), Error> {
        let &[kind, major, minor, high, low] = header else { return Err(Error) };
        self.0.decrypt_in_place_detached(nonce, &[kind, VERSION[0], VERSION[1], high, low], content, tag)?;
        if [major, minor] == AFTER_HANDSHAKE
            && let Some(end) = content.iter().rposition(|byte| *byte != 0)
            && content[end] == HANDSHAKE
        {
            let are_tickets = are_tickets(&content[..end]);
            content.fill(0);
            if let Some(first) = content.first_mut().filter(|_| are_tickets) {
                *first = APPLICATION_DATA;
            }
        }
        Ok(())
    }
}

/// One NewSessionTicket or more (RFC 8446 4.6.1), each as long as its header says, and nothing else.
fn are_tickets(mut messages: &[u8]) -> bool {
    loop {
        let Some((&[NEW_SESSION_TICKET, high, middle, low], rest)) = messages.split_first_chunk() else { return false };
        let length = u32::from_be_bytes([0, high, middle, low]);
        match rest.get(length as usize..) {
            Some([]) => return true,
            Some(more) => messages = more,
            None => return false,
        }
    }
}
