//! What a faulty or hostile peer, or a cut, leads to.

use rustls::{AlertDescription, InvalidMessage, PeerMisbehaved};

use super::*;

/// The error of TLS in `error`.
fn tls_error(error: &io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    inner.unwrap_or_else(|| panic!("{error}")).clone()
}

/// What reading leads to that brings no data.
async fn failure(ours: &mut Ours) -> Error {
    let error = ours.read(&mut vec![0; 20_000]).await.unwrap_err();
    let first = tls_error(&error);
    // And it stays so.
    assert_eq!(tls_error(&ours.read(&mut [0; 9]).await.unwrap_err()), first);
    first
}

/// `bad` ends the connection of a client or a server that has got data before: with which error, and
/// which alert.
async fn refused(
    suite: SupportedCipherSuite,
    at_client: bool,
    bad: impl Fn(&mut Ours) -> Vec<u8>,
) -> (Error, Option<Error>) {
    let (mut client, mut server) = pair(suite, 1 << 20).await;
    let (ours, theirs) = if at_client { (&mut client, &mut server) } else { (&mut server, &mut client) };
    let mut bytes = record(theirs, ContentType::ApplicationData, b"good");
    bytes.extend(bad(theirs));
    bytes.extend(record(theirs, ContentType::ApplicationData, b"late"));
    theirs.io.write_all(&bytes).await.unwrap();
    expect(ours, b"good").await;
    let error = failure(ours).await;
    assert_eq!(ours.write(b"x").await.is_err(), !matches!(error, Error::AlertReceived(_)));
    let mut cx = Context::from_waker(Waker::noop());
    let mut room = [0; 99];
    let told = match Pin::new(theirs).poll_read(&mut cx, &mut ReadBuf::new(&mut room)) {
        Poll::Ready(Err(told)) => Some(tls_error(&told)),
        Poll::Ready(Ok(())) => panic!("data"),
        Poll::Pending => None,
    };
    (error, told)
}

fn told(alert: AlertDescription) -> Option<Error> {
    Some(Error::AlertReceived(alert))
}

#[tokio::test]
async fn a_cut_is_told_from_an_end() {
    for suite in [TLS13, TLS12] {
        let (mut ours, mut theirs) = pair(suite, 1 << 20).await;
        send(&mut theirs, b"good").await;
        let half = record(&mut theirs, ContentType::ApplicationData, b"half of it");
        theirs.io.write_all(&half[..20]).await.unwrap();
        drop(theirs);
        expect(&mut ours, b"good").await;
        for _ in 0..2 {
            let error = ours.read(&mut [0; 9]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        // What the oracle says to it is the same.
        let configs = Configs::new(suite);
        let (near, far) = duplex(1 << 20);
        let (ours, theirs) = tokio::join!(
            TlsStream::connect(configs.client(), name(), near),
            TlsAcceptor::from(configs.server()).accept(far)
        );
        drop(ours.unwrap());
        let error = theirs.unwrap().read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn data_behind_an_end_is_not_looked_at() {
    let (mut ours, mut theirs) = pair(TLS13, 1 << 20).await;
    inject(&mut theirs, ContentType::Alert, &[1, 0]).await;
    theirs.io.write_all(b"rubbish that is no record").await.unwrap();
    for _ in 0..3 {
        assert_eq!(ours.read(&mut [0; 9]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn no_bit_of_a_record_may_change() {
    for suite in SUITES {
        let (mut client, mut server) = pair(suite, 1 << 20).await;
        let good = record(&mut client, ContentType::ApplicationData, b"sixteen bytes so");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut room = [0xAA; 30];
            let Ok(Some(bad)) = record::first(&bad) else { continue };
            let Ok(length) = server.reader.opener().room(bad) else { continue };
            assert!(length <= room.len());
            assert!(server.reader.opener().open(bad, &mut room[..length]).is_err(), "{suite:?}, bit {bit}");
            assert!(!room.windows(4).any(|part| part == b"byte"), "it can be read");
        }
        // None of them has counted.
        server.io.read_exact(&mut []).await.unwrap();
        client.io.write_all(&good).await.unwrap();
        expect(&mut server, b"sixteen bytes so").await;
        // Repeated it has another number.
        client.io.write_all(&good).await.unwrap();
        assert_eq!(failure(&mut server).await, Error::DecryptError);
    }
    for (suite, part) in
        [TLS13, TLS12].into_iter().flat_map(|suite| [6, 14, 20, 34].map(|part| (suite, part)))
    {
        let flipped = |theirs: &mut Ours| {
            let mut bad = record(theirs, ContentType::ApplicationData, b"sixteen bytes so");
            bad[part] ^= 1;
            bad
        };
        let expected = (Error::DecryptError, told(AlertDescription::BadRecordMac));
        assert_eq!(refused(suite, part % 4 == 0, flipped).await, expected, "{part}");
    }
}

#[tokio::test]
async fn records_have_a_longest_length() {
    for suite in [TLS13, TLS12] {
        // Announced: refused before it is there.
        let announced = |_: &mut Ours| vec![23, 3, 3, 0x41, 0x01];
        let expected = (Error::PeerSentOversizedRecord, told(AlertDescription::RecordOverflow));
        assert_eq!(refused(suite, true, announced).await, expected);
        // Short enough as it comes, too long when opened.
        let too_much = |theirs: &mut Ours| record(theirs, ContentType::ApplicationData, &[1; 16_385]);
        assert_eq!(refused(suite, false, too_much).await, expected);
        // Too short to be one.
        let too_short = |_: &mut Ours| [&[23, 3, 3, 0, 15][..], &[0; 15]].concat();
        let expected = (Error::DecryptError, told(AlertDescription::BadRecordMac));
        assert_eq!(refused(suite, true, too_short).await, expected);
        let (mut client, mut server) = pair(suite, 1 << 20).await;
        inject(&mut client, ContentType::ApplicationData, &[1; 16_384]).await;
        expect(&mut server, &[1; 16_384]).await;
    }
}

#[tokio::test]
async fn other_types_have_no_place() {
    let unexpected = told(AlertDescription::UnexpectedMessage);
    for bad in [&[20, 3, 3, 0, 1, 1][..], &[21, 3, 3, 0, 2, 2, 40], &[22, 3, 3, 0, 4, 0, 0, 0, 0]] {
        let (error, alert) = refused(TLS13, true, |_| bad.to_vec()).await;
        assert!(matches!(error, Error::InappropriateMessage { .. }), "{error}");
        assert_eq!(alert, unexpected);
    }
    for kind in [20, 24, 99] {
        let (error, alert) = refused(TLS13, false, |theirs| record(theirs, kind.into(), &[1])).await;
        assert!(matches!(error, Error::InappropriateMessage { .. }), "{error}");
        assert_eq!(alert, unexpected);
    }
    let (error, _) = refused(TLS12, true, |theirs| record(theirs, ContentType::ChangeCipherSpec, &[1])).await;
    assert!(matches!(error, Error::InappropriateMessage { .. }), "{error}");
    let (error, _) = refused(TLS13, true, |_| b"HTTP/1.1 400 Bad Request".to_vec()).await;
    assert_eq!(error, InvalidMessage::InvalidContentType.into());
    let (error, _) = refused(TLS13, true, |_| vec![23, 9, 9, 0, 20]).await;
    assert_eq!(error, InvalidMessage::UnknownProtocolVersion.into());
    // Nothing but zeros has no type at all.
    let (error, alert) = refused(TLS13, true, |theirs| record(theirs, 0.into(), &[0; 50])).await;
    assert_eq!((error, alert), (PeerMisbehaved::IllegalTlsInnerPlaintext.into(), unexpected));
}

#[tokio::test]
async fn a_peer_may_not_talk_without_data_for_ever() {
    let update = [24, 0, 0, 1, 0];
    let cases: [(SupportedCipherSuite, ContentType, &[u8], PeerMisbehaved); 4] = [
        (TLS13, ContentType::ApplicationData, &[], PeerMisbehaved::TooManyEmptyFragments),
        (TLS12, ContentType::ApplicationData, &[], PeerMisbehaved::TooManyEmptyFragments),
        (TLS12, ContentType::Alert, &[1, 100], PeerMisbehaved::TooManyWarningAlertsReceived),
        (TLS13, ContentType::Handshake, &update, PeerMisbehaved::TooManyKeyUpdateRequests),
    ];
    for (suite, kind, content, fault) in cases {
        let (mut client, mut server) = pair(suite, 1 << 20).await;
        for count in 0..3 * 32 + 1 {
            let again = |theirs: &mut Ours| {
                let record = record(theirs, kind, content);
                if content == update {
                    let next = theirs.kernel.next_sending().unwrap();
                    theirs.writer.sealer().rekey(&next).unwrap();
                }
                record
            };
            let bytes = again(&mut client);
            client.io.write_all(&bytes).await.unwrap();
            if count % 32 == 31 {
                inject(&mut client, ContentType::ApplicationData, b"data").await;
                expect(&mut server, b"data").await;
            }
            if count == 3 * 32 {
                for _ in 0..32 {
                    let bytes = again(&mut client);
                    client.io.write_all(&bytes).await.unwrap();
                }
            }
        }
        assert_eq!(failure(&mut server).await, fault.into());
    }
}

#[tokio::test]
async fn handshake_messages_must_be_in_order() {
    let unexpected = told(AlertDescription::UnexpectedMessage);
    let handshake =
        |bytes: &'static [u8]| move |theirs: &mut Ours| record(theirs, ContentType::Handshake, bytes);
    // Data, or an alert, inside of a message.
    for (kind, content) in [(ContentType::ApplicationData, &b"x"[..]), (ContentType::Alert, &[1, 0])] {
        let interleaved = |theirs: &mut Ours| {
            [record(theirs, ContentType::Handshake, &[24, 0]), record(theirs, kind, content)].concat()
        };
        let expected = (PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into(), unexpected.clone());
        assert_eq!(refused(TLS13, true, interleaved).await, expected);
    }
    // Something behind an update, under the old keys.
    let expected = (PeerMisbehaved::KeyEpochWithPendingFragment.into(), unexpected.clone());
    assert_eq!(refused(TLS13, true, handshake(&[24, 0, 0, 1, 0, 24])).await, expected);
    let decode = told(AlertDescription::DecodeError);
    for bad in [&[24, 0, 0, 1, 2][..], &[24, 0, 0, 0], &[24, 0, 0, 2, 0, 0]] {
        let expected = (InvalidMessage::InvalidKeyUpdate.into(), decode.clone());
        assert_eq!(refused(TLS13, false, handshake(bad)).await, expected);
    }
    // Announced too long: not waited for.
    let expected = (InvalidMessage::HandshakePayloadTooLarge.into(), decode.clone());
    assert_eq!(refused(TLS13, true, handshake(&[4, 1, 0, 0])).await, expected);
    // A ticket that is none, and one for a server.
    let (error, alert) = refused(TLS13, true, handshake(&[4, 0, 0, 2, 0, 0])).await;
    assert!(matches!(error, Error::InvalidMessage(_)) && alert == decode, "{error}");
    for (suite, at_client, bad) in [
        (TLS13, false, &[4, 0, 0, 2, 0, 0][..]),
        (TLS13, true, &[0, 0, 0, 0]),
        (TLS13, true, &[2, 0, 0, 1, 9]),
        (TLS13, false, &[1, 0, 0, 1, 9]),
        (TLS12, true, &[24, 0, 0, 1, 0]),
        (TLS12, true, &[0, 0, 0, 1, 0]),
        (TLS12, false, &[1, 0, 0, 1, 0]),
    ] {
        let (error, alert) = refused(suite, at_client, handshake(bad)).await;
        assert!(matches!(error, Error::InappropriateHandshakeMessage { .. }), "{bad:?}: {error}");
        assert_eq!(alert, unexpected, "{bad:?}");
    }
    // What a TLS 1.2 client need not answer.
    let (mut client, mut server) = pair(TLS12, 1 << 20).await;
    inject(&mut server, ContentType::Handshake, &[0, 0, 0, 0]).await;
    inject(&mut server, ContentType::ApplicationData, b"data").await;
    expect(&mut client, b"data").await;
}

#[tokio::test]
async fn alerts_end_the_connection_unless_they_are_only_warnings() {
    let alert = |bytes: &'static [u8]| move |theirs: &mut Ours| record(theirs, ContentType::Alert, bytes);
    for (suite, bytes, description) in [
        (TLS13, &[2, 20][..], AlertDescription::BadRecordMac),
        (TLS13, &[1, 20], AlertDescription::BadRecordMac),
        (TLS13, &[9, 0], AlertDescription::CloseNotify),
        (TLS13, &[2, 90], AlertDescription::UserCanceled),
        (TLS12, &[2, 40], AlertDescription::HandshakeFailure),
    ] {
        assert_eq!(refused(suite, true, alert(bytes)).await, (Error::AlertReceived(description), None));
    }
    for bytes in [&[][..], &[1], &[1, 0, 0]] {
        let (error, told_of) = refused(TLS13, true, alert(bytes)).await;
        assert!(matches!(error, Error::InvalidMessage(_)), "{error}");
        assert_eq!(told_of, told(AlertDescription::DecodeError));
    }
    for (suite, warning) in [(TLS13, [1, 90]), (TLS12, [1, 100])] {
        let (mut ours, mut theirs) = pair(suite, 1 << 20).await;
        inject(&mut theirs, ContentType::Alert, &warning).await;
        inject(&mut theirs, ContentType::ApplicationData, b"data").await;
        expect(&mut ours, b"data").await;
    }
}

#[tokio::test]
async fn handshakes_that_fail_are_told_of() {
    for suite in [TLS13, TLS12] {
        // A server that nobody vouches for.
        let (configs, others) = (Configs::new(suite), Configs::new(suite));
        let (near, far) = duplex(1 << 20);
        let (ours, theirs) = tokio::join!(
            TlsStream::connect(others.client(), name(), near),
            TlsAcceptor::from(configs.server()).accept(far)
        );
        let error = ours.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(matches!(tls_error(&error), Error::InvalidCertificate(_)), "{error}");
        let heard = tls_error(&theirs.unwrap_err());
        assert!(matches!(heard, Error::AlertReceived(_)), "{heard}");
    }
    // A client without a suite in common, and one without a version.
    for (suite, description) in
        [(SUITES[1], AlertDescription::HandshakeFailure), (TLS12, AlertDescription::ProtocolVersion)]
    {
        let (configs, others) = (Configs::new(TLS13), Configs::new(suite));
        let (near, far) = duplex(1 << 20);
        let (ours, theirs) = tokio::join!(
            TlsStream::accept(configs.server(), near),
            TlsConnector::from(others.client()).connect(name(), far)
        );
        assert!(matches!(tls_error(&ours.unwrap_err()), Error::PeerIncompatible(_)));
        assert_eq!(tls_error(&theirs.unwrap_err()), Error::AlertReceived(description));
    }
}

#[tokio::test]
async fn handshakes_end_with_their_peer() {
    let configs = Configs::new(TLS13);
    for bytes in [&b""[..], &[22, 3, 3, 1, 0, 2], &[22, 3]] {
        let (near, mut far) = duplex(1 << 20);
        far.write_all(bytes).await.unwrap();
        far.shutdown().await.unwrap();
        let error = TlsStream::connect(configs.client(), name(), near).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{bytes:?}");
    }
    // No TLS: seen with the first bytes, not at the end of what they announce.
    let (near, mut far) = duplex(1 << 20);
    far.write_all(b"SSH-2.0-OpenSSH").await.unwrap();
    let error = TlsStream::connect(configs.client(), name(), near).await.unwrap_err();
    assert_eq!(tls_error(&error), InvalidMessage::InvalidContentType.into());
    // A server that never comes to an end.
    let (near, mut far) = duplex(1 << 14);
    let endless = async {
        let mut start = vec![22, 3, 3, 0x40, 0, 2, 0, 0xff, 0xff];
        start.resize(5 + 0x4000, 0);
        while far.write_all(&start).await.is_ok() {
            start = [&[22, 3, 3, 0x40, 0][..], &[0; 0x4000]].concat();
        }
    };
    let (ours, ()) = tokio::join!(TlsStream::connect(configs.client(), name(), near), endless);
    assert!(matches!(tls_error(&ours.unwrap_err()), Error::InvalidMessage(_)));
    // Secrets that may not be had.
    let mut configs = Configs::new(TLS13);
    configs.client.enable_secret_extraction = false;
    let (near, far) = duplex(1 << 20);
    let (ours, _) = tokio::join!(
        TlsStream::connect(configs.client(), name(), near),
        TlsAcceptor::from(configs.server()).accept(far)
    );
    assert!(matches!(tls_error(&ours.unwrap_err()), Error::General(_)));
}
