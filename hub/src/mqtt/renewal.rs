//! AUTH within a session: a newer token for a session that goes on meanwhile, by the method of CONNECT.

use super::{
    challenge::{Challenge, Method, Nonce, token_in},
    connection::{Connection, fault},
    fabric::Fabric,
    gate::{Admission, Ending, Gate, Happening, Possession, Refusal},
    handshake::{self, words_of},
    packet::{Auth, Secret, reason},
    slot::{SlotState, lock},
};
use hearthkey_core::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite};

impl<'a, G: Gate, F: Fabric, S: AsyncRead + AsyncWrite + Send> Connection<'a, G, F, S> {
    /// AUTH 0x19: a newer token for the session that goes on meanwhile; AUTH 0x18: the answer to a challenge.
    pub(super) fn reauthenticate(&mut self, auth: Auth) -> Result<(), Ending> {
        let Some(method) = self.method else {
            return Err(fault(reason::PROTOCOL_ERROR, "AUTH, but CONNECT named no method"));
        };
        if &*auth.method != method.as_str() {
            return Err(fault(reason::BAD_AUTHENTICATION_METHOD, "another method than that of CONNECT"));
        }
        if self.renewal.is_some() {
            return Err(fault(reason::PROTOCOL_ERROR, "AUTH before the answer to the last one"));
        }
        let data = auth.data.filter(|data| !data.expose().is_empty());
        match method {
            Method::ClientCredentials => self.renew_by_token_request(auth.reason_code, data),
            Method::Ace => self.renew_by_possession(auth.reason_code, data),
        }
    }

    /// AUTH 0x19 without a token request is answered by what it takes to make one, AUTH 0x18 with it by the decision.
    fn renew_by_token_request(&mut self, reason_code: u8, form: Option<Secret>) -> Result<(), Ending> {
        let was_challenged = matches!(self.challenged.take(), Some(Challenge::TokenRequest));
        let form = match form {
            Some(form) if was_challenged || reason_code == reason::REAUTHENTICATE => form,
            None if reason_code == reason::REAUTHENTICATE => {
                self.challenged = Some(Challenge::TokenRequest);
                let data = handshake::challenge_data(self.front.gate.issuer(), self.front.gate.now());
                return self.send_auth(reason::CONTINUE_AUTHENTICATION, Some(&data), None);
            }
            Some(_) => return Err(fault(reason::PROTOCOL_ERROR, "an answer without a challenge")),
            None => return Err(fault(reason::PROTOCOL_ERROR, "AUTH without data")),
        };
        let (gate, slot, peer) = (self.front.gate.as_ref(), self.slot.clone(), self.peer);
        self.renewal =
            Some(Box::pin(async move { gate.admit_by_token_request(&slot.key.client_identifier, form.expose(), peer).await }));
        Ok(())
    }

    /// AUTH 0x19 with a token is answered by a nonce, AUTH 0x18 with its proof by the decision.
    fn renew_by_possession(&mut self, reason_code: u8, data: Option<Secret>) -> Result<(), Ending> {
        let data = data.ok_or_else(|| fault(reason::PROTOCOL_ERROR, "AUTH without data"))?;
        if reason_code == reason::REAUTHENTICATE {
            let nonce = Nonce::fresh().ok_or_else(|| fault(reason::SERVER_UNAVAILABLE, "no randomness for a challenge"))?;
            self.challenged = Some(Challenge::Possession(data, nonce));
            return self.send_auth(reason::CONTINUE_AUTHENTICATION, Some(nonce.as_bytes()), None);
        }
        let Some(Challenge::Possession(token, nonce)) = self.challenged.take() else {
            return Err(fault(reason::PROTOCOL_ERROR, "an answer without a challenge"));
        };
        let signed = nonce.answered(data.expose()).map_err(|found| fault(found.code, found.reason))?;
        let (challenge, proof) = (signed.challenge, signed.proof.to_vec());
        let (gate, slot, peer) = (self.front.gate.as_ref(), self.slot.clone(), self.peer);
        self.renewal = Some(Box::pin(async move {
            let possession = Possession { token: token_in(token.expose()), challenge: &challenge, proof: &proof };
            gate.admit_by_possession(&slot.key.client_identifier, possession, peer).await
        }));
        Ok(())
    }

    pub(super) fn renew(&mut self, decision: Result<Admission, Refusal>) -> Result<(), Ending> {
        let refused = |connection: &Self, reason_code, reason: String| {
            connection.record(Happening::Refused { reason_code, reason: reason.clone() });
            Err(Ending::Fault { reason_code, reason })
        };
        let admission = match decision {
            Ok(admission) => admission,
            Err(refusal) => return refused(self, refusal.kind.reason_code(), words_of(&refusal)),
        };
        if admission.authority.principal != self.slot.key.principal {
            let reason = format!("invalid_client: the session belongs to {}", self.slot.key.principal);
            return refused(self, reason::NOT_AUTHORIZED, reason);
        }
        {
            let mut state = lock(&self.slot.state);
            let SlotState { attached, armed, .. } = &mut *state;
            let attached = attached.as_mut().filter(|attached| attached.connection == self.number);
            // Taken over meanwhile: the end has been announced.
            let Some(attached) = attached else { return Ok(()) };
            if let Some(armed) = armed {
                self.front.persister.store_some_time(armed.stand_on(&self.slot.key, &admission.authority));
            }
            attached.authority = admission.authority;
            attached.rights = admission.standing.rights.clone();
        }
        self.stand_on(admission.standing);
        // The hub may have changed its mind between its decision and this moment.
        self.front.judge(&self.slot);
        self.send_auth(reason::SUCCESS, admission.token_response.as_deref(), Some(self.front.gate.now()))?;
        self.record(Happening::Renewed);
        Ok(())
    }

    fn send_auth(&mut self, reason_code: u8, data: Option<&[u8]>, date: Option<UnixTime>) -> Result<(), Ending> {
        let dialect = self.dialect;
        let method = self.method.map_or("", Method::as_str);
        let sent = self.wire.outbound.push(|out| dialect.auth(reason_code, method, data, date, out));
        sent.map_err(|_| fault(reason::PACKET_TOO_LARGE, "AUTH exceeds the client's maximum packet size"))
    }
}
