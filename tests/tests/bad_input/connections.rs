//! Connections that begin something and do not finish it, and more of them than there is room for.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Harness;
use super::node::{Node, PATIENCE};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The beginning of a call's headers, with no end among them.
const HEADERS: [u8; 10] = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];

/// What a new connection may take for its opening, with room for a busy machine.
const OPENING: Duration = Duration::from_secs(20);
/// What a silent connection may take to show a sign of life, with room for a busy machine.
const SILENCE: Duration = Duration::from_secs(45);

async fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    stream.expect("a port")
}

/// Says these parts with a pause between them, and waits until the other side closes.
async fn closed_after(port: u16, parts: Vec<Vec<u8>>, within: Duration) {
    let began = Instant::now();
    let (mut reading, mut writing) = connect(port).await.into_split();
    let saying = tokio::spawn(async move {
        for part in parts {
            // The other side may have closed.
            if writing.write_all(&part).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // Not closed from here.
        writing
    });
    let mut heard = Vec::new();
    let read = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut heard)).await;
    let took = began.elapsed();
    saying.abort();
    // A reset is an end, too.
    drop(read.expect("the other side closes"));
    assert!(took < within, "closed after {took:?}");
}

#[tokio::test]
async fn a_connection_that_never_finishes_its_opening_is_closed() {
    let mut harness = Harness::start().await;
    let before = harness.state().await;
    let whole = [PREFACE, &SETTINGS].concat();
    let byte_by_byte = whole.iter().map(|byte| vec![*byte]).collect();
    let cases: [(Vec<Vec<u8>>, Duration); 8] = [
        (vec![], OPENING),
        (vec![b"P".to_vec()], OPENING),
        (vec![b"PRI ".to_vec()], OPENING),
        (vec![PREFACE.to_vec()], OPENING),
        (vec![PREFACE.to_vec(), SETTINGS[..5].to_vec()], OPENING),
        (byte_by_byte, OPENING),
        (vec![whole.clone()], SILENCE),
        (vec![whole, HEADERS.to_vec()], SILENCE),
    ];
    let mut waiting = tokio::task::JoinSet::new();
    for port in [harness.node.client_port, harness.node.internal_port] {
        for (parts, within) in cases.clone() {
            waiting.spawn(closed_after(port, parts, within));
        }
    }
    while let Some(closed) = waiting.join_next().await {
        closed.expect("closed in time");
    }
    harness.assert_unharmed_since(before).await;
}

/// Whether a new connection is let in: it then hears the server's settings.
async fn is_let_in(stream: &mut TcpStream) -> bool {
    let said = stream.write_all(&[PREFACE, &SETTINGS].concat()).await;
    let mut first = [0; 9];
    let heard = tokio::time::timeout(PATIENCE, stream.read_exact(&mut first)).await;
    said.is_ok() && heard.expect("an answer or an end").is_ok()
}

#[tokio::test]
async fn a_connection_too_many_is_refused_until_another_closes() {
    const CONNECTIONS: usize = 6;
    let limit = format!("[limits]\nconnections = {CONNECTIONS}\n");
    let mut node = Node::start_with(&limit).await;
    // Those of the start go, once their clients are gone; what is left is one and all of ours.
    let mut open = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while open.len() < CONNECTIONS {
        assert!(Instant::now() < deadline, "only {} are let in", open.len());
        let mut stream = connect(node.client_port).await;
        if is_let_in(&mut stream).await {
            open.push(stream);
        }
    }
    for _ in 0..3 {
        let mut one_more = connect(node.client_port).await;
        assert!(!is_let_in(&mut one_more).await, "one too many was let in");
    }
    // The nodes' own port has its own places.
    assert!(is_let_in(&mut connect(node.internal_port).await).await);

    drop(open.pop());
    let deadline = Instant::now() + PATIENCE;
    let mut next = connect(node.client_port).await;
    while !is_let_in(&mut next).await {
        assert!(Instant::now() < deadline, "the place is not given back");
        next = connect(node.client_port).await;
    }
    let mut one_more = connect(node.client_port).await;
    assert!(!is_let_in(&mut one_more).await, "one too many was let in");
    drop((open, next));
    node.assert_unharmed();
}
