//! Servers that are not the hub, or break TLS itself, before a board that enrols. It tells them nothing, says why, and does not
//! panic. What each does to the agent on a host is told in the agent's own tests, which lend their servers.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use tokio::net::TcpListener;

use crate::emulated::Board;
use crate::pki::HomeCa;
use crate::tls13::{HANDSHAKE, Server, certificate, encrypted_extensions, plaintext_record};

const CODE: [u8; 16] = *b"one-time secret!";

/// How the board judges a server with this home's CA in its enrolment string.
async fn judged(home: &HomeCa, attack: impl AsyncFnOnce(&mut Server)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    // docs/protocol.md, "Enrolment string".
    let mut string = home.sha256().to_vec();
    string.extend(CODE);
    string.extend([port.to_be_bytes(), port.to_be_bytes()].concat());
    string.extend(b"127.0.0.1");
    let mut board = Board::start(&format!("hk1.{}", Base64UrlUnpadded::encode_string(&string)), &[]).await;
    let (mut socket, _) = hearthkey_tests::patience::within("the board's call", listener.accept()).await.expect("a call");
    let (ours, mut theirs) = tokio::io::duplex(4096);
    // It ends when either side does; how is the board's to say.
    let carrying = tokio::spawn(async move { tokio::io::copy_bidirectional(&mut socket, &mut theirs).await });
    let mut server = Server::accept(ours).await;
    attack(&mut server).await;
    let verdict = board.said("enrolment failed: ").await;
    carrying.abort();
    board.type_in("s").await;
    board.said("figure stack").await;
    assert!(!board.shown().contains("panicked"), "{}", board.shown());
    verdict
}

#[tokio::test]
async fn a_board_believes_no_forged_chain() {
    let home = HomeCa::new("home");
    let forger = HomeCa::new("home");
    let forged = forger.hub();
    for (chain, reason) in [([&forged.der, &forger.der], "WrongCa"), ([&forged.der, &home.der], "NotIssuedByCa")] {
        let verdict = judged(&home, async |server| {
            server.send_flight(&chain.map(|der| der.as_ref()), &forged.signing_key()).await;
        });
        let verdict = verdict.await;
        assert!(verdict.contains(reason), "{verdict}");
    }
}

#[tokio::test]
async fn a_board_believes_nobody_without_a_certificate_or_without_its_key() {
    let home = HomeCa::new("home");
    let hub = home.hub();
    for shown in [vec![], vec![certificate(&[&hub.der, &home.der])]] {
        let verdict = judged(&home, async |server| {
            server.say_hello().await;
            let mut flight = [vec![encrypted_extensions()], shown].concat();
            flight.push(server.finished(&flight));
            server.send_messages(&flight).await;
        });
        let verdict = verdict.await;
        assert!(verdict.contains("NotAuthenticated"), "{verdict}");
    }
}

#[tokio::test]
async fn a_board_does_not_panic_at_records_that_panic_its_tls_engine() {
    let home = HomeCa::new("home");
    let hub = home.hub();
    let empty = judged(&home, async |server| {
        server.say_hello().await;
        server.send_sealed(&[]).await;
    });
    let empty = empty.await;
    assert!(empty.contains("Record("), "{empty}");
    let injected = judged(&home, async |server| {
        server.handshake(&[&hub.der, &home.der], &hub.signing_key()).await;
        server.send_raw(&plaintext_record(HANDSHAKE, &[0; 8])).await;
    });
    let injected = injected.await;
    assert!(injected.contains("Record("), "{injected}");
    let misplaced = judged(&home, async |server| {
        server.handshake(&[&hub.der, &home.der], &hub.signing_key()).await;
        server.send_sealed(&[encrypted_extensions().as_slice(), &[HANDSHAKE]].concat()).await;
    });
    let misplaced = misplaced.await;
    assert!(misplaced.contains("UnexpectedMessage"), "{misplaced}");
}
