//! Servers that break TLS 1.3 itself. The letters are the holes of the TLS engine that each test keeps closed.

use crate::support::pki::{HomeCa, TODAY};
use crate::support::tls13::{
    ALERT, HANDSHAKE, Hello, Server, certificate, certificate_request, encrypted_extensions, message, new_session_ticket,
    plaintext_record,
};
use crate::support::{Pipe, TestPlatform};
use hearthkey_agent::keys::Drbg;
use hearthkey_agent::tls::{Channel, HelloError, RecordError, Refusal, TlsBuffers, TlsError, TrustAnchor};
use hearthkey_agent::{Platform, Transport, UnixTime};
use p256::ecdsa::SigningKey;

const APPLICATION_DATA: u8 = 23;

/// A home whose hub certificate and key are in the hands of a server that misbehaves otherwise.
struct Home {
    ca: HomeCa,
    hub: Vec<u8>,
    key: SigningKey,
}

impl Home {
    fn new() -> Self {
        let ca = HomeCa::new("home");
        let hub = ca.hub();
        Self { hub: hub.der.to_vec(), key: hub.signing_key(), ca }
    }

    fn chain(&self) -> [&[u8]; 2] {
        [&self.hub, &self.ca.der]
    }

    /// Runs the device against `server`: it connects, says `secret`, and reads until the connection ends.
    /// What it read, and how it ended.
    async fn attacked_by(&self, server: impl AsyncFnOnce(Server)) -> (Vec<u8>, TlsError) {
        let (platform, mut calls) = TestPlatform::new(1);
        let pipe: Pipe = platform.connect("hub", 8883).await.unwrap();
        let stream = calls.recv().await.unwrap();
        let pin = self.ca.sha256();
        let device = async move {
            let mut pipe = pipe;
            let mut buffers = TlsBuffers::new();
            let (reader, writer) = pipe.split();
            let mut random = Drbg::from_seed(&[1; 32], "test");
            let anchor = TrustAnchor::Pinned(&pin);
            let now = Some(UnixTime::from_secs(TODAY));
            let mut channel = Channel::new(reader, writer, &mut buffers);
            let mut connection = match channel.authenticated(anchor, now, &mut random).await {
                Ok(connection) => connection,
                Err(error) => return (vec![], error),
            };
            let mut received = vec![];
            if let Err(error) = connection.write(b"secret").await {
                return (received, error);
            }
            let mut bytes = [0; 4096];
            loop {
                match connection.read(&mut bytes).await {
                    Ok(count) => received.extend(&bytes[..count]),
                    Err(error) => return (received, error),
                }
            }
        };
        let server = async { server(Server::accept(stream).await).await };
        tokio::join!(device, server).0
    }

    /// What the device read, and how it ended, when the hub itself says these encrypted records after a right handshake.
    async fn told(&self, records: &[&[u8]]) -> (Vec<u8>, TlsError) {
        let hub = async |mut server: Server| {
            server.handshake(&self.chain(), &self.key).await;
            for inner in records {
                server.send_sealed(inner).await;
            }
        };
        self.attacked_by(hub).await
    }

    /// How the handshake ends when the server answers the ClientHello with `hello`.
    async fn answered_with(&self, hello: Hello) -> TlsError {
        let attack = async |mut server: Server| {
            let content = server.server_hello(&hello);
            server.send_raw(&plaintext_record(HANDSHAKE, &content)).await;
        };
        self.attacked_by(attack).await.1
    }
}

fn record(error: RecordError) -> TlsError {
    TlsError::Record(error)
}

/// Without this, no refusal below would mean anything.
#[tokio::test(start_paused = true)]
async fn the_hand_made_server_is_believed_as_long_as_it_behaves() {
    let home = Home::new();
    let (received, ending) = home
        .attacked_by(async |mut server| {
            server.handshake(&home.chain(), &home.key).await;
            assert_eq!(server.receive().await.as_deref(), Some(b"secret\x17".as_slice()));
            server.send_sealed(b"hello\x17").await;
            server.send_sealed(b"\x17").await;
            server.send_sealed(b" padded\x17\0\0\0").await;
            server.send_sealed(&[1, 0, ALERT]).await;
        })
        .await;
    assert_eq!((received.as_slice(), ending), (b"hello padded".as_slice(), TlsError::Closed));
}

/// Holes a and j: anyone in the middle can finish a handshake in which nobody showed a certificate.
#[tokio::test(start_paused = true)]
async fn a_server_that_never_showed_a_certificate_learns_nothing() {
    let home = Home::new();
    for asks_for_certificate in [false, true] {
        let (_, ending) = home
            .attacked_by(async |mut server| {
                server.say_hello().await;
                let mut flight = vec![encrypted_extensions()];
                if asks_for_certificate {
                    flight.push(certificate_request());
                }
                flight.push(server.finished(&flight));
                server.send_messages(&flight).await;
                let first = server.established().await.expect("the engine itself is content");
                if asks_for_certificate {
                    // An empty Certificate: type 11, no context, no entries.
                    assert_eq!(first, [11, 0, 0, 4, 0, 0, 0, 0, HANDSHAKE]);
                }
                while let Some(inner) = server.receive().await {
                    assert_ne!(inner.last(), Some(&APPLICATION_DATA), "something was sent to nobody");
                }
            })
            .await;
        assert_eq!(ending, TlsError::Refused(Refusal::NotAuthenticated));
    }
}

/// Hole a, second half: the chain is public; only the signature proves the key.
#[tokio::test(start_paused = true)]
async fn a_server_that_shows_the_hubs_certificate_without_its_key_learns_nothing() {
    let home = Home::new();
    let (_, no_proof) = home
        .attacked_by(async |mut server| {
            server.say_hello().await;
            let mut flight = vec![encrypted_extensions(), certificate(&home.chain())];
            flight.push(server.finished(&flight));
            server.send_messages(&flight).await;
            server.established().await;
            assert_eq!(server.receive().await, None);
        })
        .await;
    assert_eq!(no_proof, TlsError::Refused(Refusal::NotAuthenticated));

    let other_key = Home::new().key;
    let (_, wrong_proof) = home.attacked_by(async |mut server| server.send_flight(&home.chain(), &other_key).await).await;
    assert_eq!(wrong_proof, TlsError::Refused(Refusal::WrongSignature));
}

/// Hole a, in disguise: the proof comes after the Finished that it should have been covered by.
#[tokio::test(start_paused = true)]
async fn a_proof_of_another_transcript_is_none() {
    let home = Home::new();
    let (_, ending) = home
        .attacked_by(async |mut server| {
            server.say_hello().await;
            let mut flight = vec![encrypted_extensions(), certificate(&home.chain())];
            let stale = server.certificate_verify(&[encrypted_extensions()], &home.key);
            flight.push(stale);
            server.send_messages(&flight).await;
        })
        .await;
    assert_eq!(ending, TlsError::Refused(Refusal::WrongSignature));
}

/// Hole e: panics the bare engine, before the server is authenticated.
#[tokio::test(start_paused = true)]
async fn an_encrypted_record_without_content_type_is_refused() {
    let home = Home::new();
    let (_, before) = home
        .attacked_by(async |mut server| {
            server.say_hello().await;
            server.send_sealed(&[]).await;
        })
        .await;
    assert_eq!(before, record(RecordError::Length));
    let (_, after) = home
        .attacked_by(async |mut server| {
            server.handshake(&home.chain(), &home.key).await;
            server.send_sealed(&[]).await;
        })
        .await;
    assert_eq!(after, record(RecordError::Length));
}

#[tokio::test(start_paused = true)]
async fn an_encrypted_record_of_nothing_but_padding_is_refused() {
    let home = Home::new();
    let (_, ending) = home
        .attacked_by(async |mut server| {
            server.say_hello().await;
            server.send_sealed(&[0; 40]).await;
        })
        .await;
    assert_eq!(ending, TlsError::UnexpectedMessage);
}

/// Hole f: anyone in the middle can inject it, and it panics the bare engine.
#[tokio::test(start_paused = true)]
async fn a_plaintext_handshake_record_after_the_handshake_is_refused() {
    let home = Home::new();
    for kind in [2, 4, 8, 11, 13, 15, 20, 24] {
        let (_, ending) = home
            .attacked_by(async |mut server| {
                server.handshake(&home.chain(), &home.key).await;
                server.send_raw(&plaintext_record(HANDSHAKE, &message(kind, &[0; 8]))).await;
            })
            .await;
        assert_eq!(ending, record(RecordError::PlaintextAfterServerHello), "type {kind}");
    }
}

/// Hole k: whoever holds the hub's key can send them encrypted, and most of them panic the bare engine.
#[tokio::test(start_paused = true)]
async fn an_encrypted_message_that_has_no_place_after_the_handshake_ends_the_connection() {
    let home = Home::new();
    // Version, random, no session, cipher suite, no compression, no extensions.
    let hello = message(2, &[&[3, 3][..], &[7; 32], &[0, 0x13, 1, 0, 0, 0]].concat());
    let zeroes = |kind: u8| message(kind, &[0; 40]);
    let key_update = message(24, &[0]);
    let misplaced = [
        hello,
        encrypted_extensions(),
        certificate(&home.chain()),
        certificate_request(),
        message(15, &[4, 3, 0, 2, 0, 0]),
        message(20, &[0; 32]),
        key_update,
        zeroes(1),
        zeroes(5),
        zeroes(254),
        zeroes(99),
    ];
    for message in misplaced {
        let (received, ending) = home.told(&[b"truth\x17", &[message.as_slice(), &[HANDSHAKE]].concat()]).await;
        assert_eq!((received.as_slice(), ending), (b"truth".as_slice(), TlsError::UnexpectedMessage), "{message:?}");
    }
}

/// The engine reads a message by the lengths within it, whatever its header says: what is behind them it takes for another one.
#[tokio::test(start_paused = true)]
async fn nothing_hides_behind_a_ticket() {
    let home = Home::new();
    let (ticket, finished) = (new_session_ticket(&[]), message(20, &[0; 32]));
    let behind = [ticket.as_slice(), &finished].concat();
    for content in [&behind, &ticket[..ticket.len() - 1], &[ticket.as_slice(), &[4]].concat(), &[4, 0, 0, 1], &[]] {
        for padding in [0, 7] {
            let (_, ending) = home.told(&[&[content, &[HANDSHAKE], &vec![0; padding]].concat()]).await;
            assert_eq!(ending, TlsError::UnexpectedMessage, "{content:?} and {padding} zeroes");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_ticket_changes_nothing() {
    let home = Home::new();
    let early_data = new_session_ticket(&[0, 42, 0, 4, 0, 0, 0x40, 0]);
    let unknown = new_session_ticket(&[0x7a, 0x7a, 0, 1, 0]);
    // Nobody looks into one: there is nothing to find, nor to stumble over.
    let finished_inside = message(4, &[&new_session_ticket(&[])[4..], &message(20, &[0; 32])].concat());
    let empty = message(4, &[]);
    for tickets in [new_session_ticket(&[]), [early_data.clone(), early_data].concat(), unknown, finished_inside, empty] {
        let records = [b"be\x17".as_slice(), &[tickets.as_slice(), &[HANDSHAKE, 0, 0]].concat(), b"fore\x17", &[1, 0, ALERT]];
        let (received, ending) = home.told(&records).await;
        assert_eq!((received.as_slice(), ending), (b"before".as_slice(), TlsError::Closed), "{tickets:?}");
    }
}

/// Plaintext messages in place of encrypted ones: the bare engine takes them.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_goes_on_in_plaintext_is_refused() {
    let home = Home::new();
    let (_, ending) = home
        .attacked_by(async |mut server| {
            server.say_hello().await;
            server.send_raw(&plaintext_record(HANDSHAKE, &encrypted_extensions())).await;
        })
        .await;
    assert_eq!(ending, record(RecordError::PlaintextAfterServerHello));
}

/// Hole g: panics the engine's own verifier.
#[tokio::test(start_paused = true)]
async fn a_proof_before_the_certificate_is_refused() {
    let home = Home::new();
    let (_, ending) = home
        .attacked_by(async |mut server| {
            server.say_hello().await;
            let mut flight = vec![encrypted_extensions()];
            flight.push(server.certificate_verify(&flight, &home.key));
            server.send_messages(&flight).await;
        })
        .await;
    assert_eq!(ending, TlsError::Refused(Refusal::OutOfOrder));
}

#[tokio::test(start_paused = true)]
async fn a_second_certificate_is_refused() {
    let home = Home::new();
    let (_, ending) = home
        .attacked_by(async |mut server| {
            server.say_hello().await;
            let twice = [encrypted_extensions(), certificate(&home.chain()), certificate(&home.chain())];
            server.send_messages(&twice).await;
        })
        .await;
    assert_eq!(ending, TlsError::Refused(Refusal::OutOfOrder));
}

/// Hole h: a forged goodbye would end the stream as if the hub had said it.
#[tokio::test(start_paused = true)]
async fn a_plaintext_goodbye_is_no_goodbye() {
    let home = Home::new();
    for level in [1, 2] {
        let (received, ending) = home
            .attacked_by(async |mut server| {
                server.handshake(&home.chain(), &home.key).await;
                server.send_sealed(b"half a sen\x17").await;
                server.send_raw(&plaintext_record(ALERT, &[level, 0])).await;
            })
            .await;
        assert_eq!(received, b"half a sen");
        assert_eq!(ending, record(RecordError::PlaintextAfterServerHello));
    }
    let (_, silent) = home.attacked_by(async |mut server| server.handshake(&home.chain(), &home.key).await).await;
    assert!(matches!(silent, TlsError::Io(_)), "a socket that just closes says nothing either: {silent:?}");
}

/// Hole i: the bare engine compares none of these with what it offered.
#[tokio::test(start_paused = true)]
async fn a_server_hello_that_answers_another_offer_is_refused() {
    let home = Home::new();
    let right = Hello::default;
    let retry = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11, 0x16,
        0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
    ];
    for (hello, error) in [
        (Hello { legacy_version: [3, 2], ..right() }, HelloError::Version),
        (Hello { supported_versions: Some([3, 3]), ..right() }, HelloError::Version),
        (Hello { supported_versions: None, ..right() }, HelloError::Version),
        (Hello { random: retry, ..right() }, HelloError::RetryRequest),
        (Hello { session_id: vec![7; 32], ..right() }, HelloError::SessionId),
        (Hello { cipher_suite: [0x13, 0x02], ..right() }, HelloError::CipherSuite),
        (Hello { cipher_suite: [0x13, 0x03], ..right() }, HelloError::CipherSuite),
        (Hello { cipher_suite: [0x00, 0xa8], ..right() }, HelloError::CipherSuite),
        (Hello { compression: 1, ..right() }, HelloError::Compression),
        (Hello { group: [0, 0x1d], ..right() }, HelloError::KeyShare),
        (Hello { more_extensions: vec![0, 41, 0, 2, 0, 0], ..right() }, HelloError::Extension),
        (Hello { more_extensions: vec![0, 43, 0, 2, 3, 4], ..right() }, HelloError::Extension),
        (Hello { more_extensions: vec![0, 16, 0, 5, 0, 3, 2, b'h', b'2'], ..right() }, HelloError::Extension),
        (Hello { more_extensions: vec![0, 16, 0, 5], ..right() }, HelloError::Malformed),
    ] {
        assert_eq!(home.answered_with(hello).await, record(RecordError::Hello(error)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_hello_with_anything_beside_it_is_refused() {
    let home = Home::new();
    for extra in [encrypted_extensions(), vec![0]] {
        let (_, ending) = home
            .attacked_by(async |mut server| {
                let mut content = server.server_hello(&Hello::default());
                content.extend(&extra);
                server.send_raw(&plaintext_record(HANDSHAKE, &content)).await;
            })
            .await;
        assert_eq!(ending, record(RecordError::Hello(HelloError::Malformed)));
    }
    let (_, alert) = home.attacked_by(async |mut server| server.send_raw(&plaintext_record(ALERT, &[2, 40])).await).await;
    assert_eq!(alert, TlsError::Handshake);
    let early = plaintext_record(APPLICATION_DATA, &[0; 32]);
    let (_, ending) = home.attacked_by(async |mut server| server.send_raw(&early).await).await;
    assert_eq!(ending, record(RecordError::BeforeServerHello));
}

#[tokio::test(start_paused = true)]
async fn the_dummy_change_cipher_spec_is_legal_once_and_only_during_the_handshake() {
    let home = Home::new();
    let dummy = plaintext_record(20, &[1]);
    let flight_after = async |server: &mut Server, dummies: usize| {
        server.say_hello().await;
        for _ in 0..dummies {
            server.send_raw(&dummy).await;
        }
        let mut flight = vec![encrypted_extensions(), certificate(&home.chain())];
        flight.push(server.certificate_verify(&flight, &home.key));
        flight.push(server.finished(&flight));
        server.send_messages(&flight).await;
    };
    let once = async |mut server: Server| {
        flight_after(&mut server, 1).await;
        server.established().await.expect("goes on");
        server.send_raw(&dummy).await;
    };
    assert_eq!(home.attacked_by(once).await.1, record(RecordError::PlaintextAfterServerHello), "too late");
    let twice = async |mut server: Server| flight_after(&mut server, 2).await;
    assert_eq!(home.attacked_by(twice).await.1, record(RecordError::PlaintextAfterServerHello), "twice");
    let wrong = async |mut server: Server| {
        server.say_hello().await;
        server.send_raw(&plaintext_record(20, &[2])).await;
    };
    assert_eq!(home.attacked_by(wrong).await.1, record(RecordError::Type));
}

#[tokio::test(start_paused = true)]
async fn a_record_too_long_for_the_device_is_refused_by_its_header() {
    let home = Home::new();
    let (received, longest) = home
        .attacked_by(async |mut server| {
            server.handshake(&home.chain(), &home.key).await;
            let mut inner = vec![b'x'; 2048];
            inner.push(APPLICATION_DATA);
            server.send_sealed(&inner).await;
            server.send_raw(&[APPLICATION_DATA, 3, 3, 0x08, 0x12]).await;
        })
        .await;
    assert_eq!(received.len(), 2048, "the longest legal record passes");
    assert_eq!(longest, record(RecordError::Length), "one byte more does not, and its content is not waited for");
}

#[tokio::test(start_paused = true)]
async fn a_tampered_or_repeated_record_ends_the_connection() {
    let home = Home::new();
    for repeat in [false, true] {
        let (received, ending) = home
            .attacked_by(async |mut server| {
                server.handshake(&home.chain(), &home.key).await;
                let mut sealed = server.sending.as_mut().unwrap().seal(b"truth\x17");
                server.send_raw(&sealed).await;
                if !repeat {
                    sealed = server.sending.as_mut().unwrap().seal(b"truth\x17");
                    sealed[7] ^= 1;
                }
                server.send_raw(&sealed).await;
            })
            .await;
        assert_eq!((received.as_slice(), ending), (b"truth".as_slice(), TlsError::Engine));
    }
}

/// Reads that are given up half way lose nothing: the guard hands up whole records only.
#[tokio::test(start_paused = true)]
async fn cancelled_reads_lose_nothing() {
    let home = Home::new();
    let (platform, mut calls) = TestPlatform::new(1);
    let pipe: Pipe = platform.connect("hub", 8883).await.unwrap();
    let stream = calls.recv().await.unwrap();
    let pin = home.ca.sha256();
    let device = async move {
        let mut pipe = pipe;
        let mut buffers = TlsBuffers::new();
        let (reader, writer) = pipe.split();
        let mut random = Drbg::from_seed(&[1; 32], "test");
        let mut channel = Channel::new(reader, writer, &mut buffers);
        let mut connection = channel.authenticated(TrustAnchor::Pinned(&pin), None, &mut random).await.unwrap();
        let (mut received, mut cancelled): (Vec<u8>, usize) = (vec![], 0);
        while received.len() < 20_000 {
            let mut bytes = [0; 700];
            tokio::select! {
                biased;
                count = connection.read(&mut bytes) => received.extend(&bytes[..count.unwrap()]),
                () = tokio::task::yield_now() => cancelled += 1,
            }
        }
        (received, cancelled)
    };
    let server = async {
        let mut server = Server::accept(stream).await;
        server.handshake(&home.chain(), &home.key).await;
        for chunk in 0..20_u8 {
            let mut inner = vec![chunk; 1000];
            inner.push(APPLICATION_DATA);
            let sealed = server.sending.as_mut().unwrap().seal(&inner);
            for piece in sealed.chunks(37) {
                server.send_raw(piece).await;
                tokio::task::yield_now().await;
            }
        }
        server
    };
    let ((received, cancelled), _server) = tokio::join!(device, server);
    let expected: Vec<u8> = (0..20_u8).flat_map(|chunk| [chunk; 1000]).collect();
    assert_eq!(received, expected);
    assert!(cancelled > 200, "{cancelled} reads were cancelled");
}
