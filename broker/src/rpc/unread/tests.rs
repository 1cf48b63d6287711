//! The room for what consumers have not taken, in paused time.

use super::*;

const PIECE: usize = 64 * 1024;

/// A connection from this address that has proven to take what it asks for.
fn proven(address: &str) -> Connection {
    let connection = Connection::new(Some(address.parse().expect("an address")));
    connection.took(usize::MAX >> 1);
    connection
}

/// Answers that fill what a host may have, each on a connection of its own.
async fn fill(room: &Arc<UnreadRoom>, address: &str) -> Vec<(Connection, Unread)> {
    let mut hogs = Vec::new();
    for _ in 0..FETCH_BYTES_PER_HOST / FETCH_BYTES_MAX {
        let connection = proven(address);
        let mut unread = reserve(room, &connection).await.expect("room");
        unread.answer(FETCH_BYTES_MAX);
        hogs.push((connection, unread));
    }
    hogs
}

async fn reserve(room: &Arc<UnreadRoom>, connection: &Connection) -> Result<Unread, ApiError> {
    let budget = CallBudget::of_stream(room, Some(connection));
    budget.reserve(FETCH_BYTES_MAX).await
}

/// Returns what closed connections hold, as their end does.
async fn end_with_connections(hogs: Vec<(Connection, Unread)>) -> Vec<(Connection, Unread)> {
    let mut hogs = hogs;
    let until = Instant::now() + 2 * PATIENCE;
    while Instant::now() < until {
        hogs.retain(|(connection, _)| !connection.is_closed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    hogs
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_makes_room_for_who_waits() {
    let room = Arc::new(UnreadRoom::default());
    let hogs = fill(&room, "192.0.2.1").await;
    let began = Instant::now();
    let many = hogs.len();
    let ending = tokio::spawn(end_with_connections(hogs));
    let honest = proven("192.0.2.1");
    let served = reserve(&room, &honest).await;
    assert!(served.is_ok(), "not served");
    let took = began.elapsed();
    assert!(took < STALLED + Duration::from_millis(500), "{took:?}");
    // No more of them than there was need for.
    assert_eq!(ending.await.expect("no panic").len(), many - 1);
    assert!(!honest.is_closed());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_pushed_out_while_there_is_room() {
    let room = Arc::new(UnreadRoom::default());
    let hogs = fill(&room, "192.0.2.1").await;
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    // Nor do others wait for a host that has all it may.
    let began = Instant::now();
    for other in ["192.0.2.2", "2001:db8::1"] {
        assert!(reserve(&room, &proven(other)).await.is_ok());
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(hogs.iter().all(|(connection, _)| !connection.is_closed()));
}

#[tokio::test(start_paused = true)]
async fn a_host_pushes_out_none_of_another_host() {
    let room = Arc::new(UnreadRoom::default());
    let paused = proven("192.0.2.9");
    let mut unread = reserve(&room, &paused).await.expect("room");
    unread.answer(FETCH_BYTES_MAX);
    let hogs = fill(&room, "192.0.2.1").await;
    tokio::time::sleep(STALLED).await;
    let _ = reserve(&room, &proven("192.0.2.1")).await;
    assert!(hogs.iter().any(|(connection, _)| connection.is_closed()));
    assert!(!paused.is_closed());
}

#[tokio::test(start_paused = true)]
async fn who_takes_little_by_little_is_not_pushed_out() {
    let room = Arc::new(UnreadRoom::default());
    let slow = fill(&room, "192.0.2.1").await;
    let waiting = {
        let room = Arc::clone(&room);
        tokio::spawn(async move { reserve(&room, &proven("192.0.2.1")).await.err() })
    };
    while !waiting.is_finished() {
        for (_, unread) in &slow {
            unread.took(PIECE);
        }
        tokio::time::sleep(STALLED / 2).await;
    }
    let refused = waiting.await.expect("no panic").expect("no room");
    assert_eq!(refused.code, ErrorCode::ThrottlingQuotaExceeded);
    assert!(slow.iter().all(|(connection, _)| !connection.is_closed()));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_takes_is_not_spared_for_ever_by_others_on_its_connection() {
    let room = Arc::new(UnreadRoom::default());
    let hogs = fill(&room, "192.0.2.1").await;
    let began = Instant::now();
    while !hogs.iter().any(|(connection, _)| connection.is_closed()) {
        for (connection, _) in &hogs {
            connection.took(PIECE);
        }
        let _ = tokio::time::timeout(STALLED / 2, reserve(&room, &proven("192.0.2.1"))).await;
        assert!(began.elapsed() < 2 * STALLED_BESIDE_OTHERS);
    }
    assert!(began.elapsed() >= STALLED_BESIDE_OTHERS);
}

#[tokio::test(start_paused = true)]
async fn connections_that_have_taken_nothing_hold_little() {
    let room = Arc::new(UnreadRoom::default());
    let peer = Some("192.0.2.1".parse().expect("an address"));
    let mut held = Vec::new();
    for _ in 0..32 {
        let hog = Connection::new(peer);
        while let Ok(Ok(mut unread)) =
            tokio::time::timeout(Duration::from_millis(1), reserve(&room, &hog)).await
        {
            unread.answer(usize::MAX);
            held.push(unread);
        }
    }
    let began = Instant::now();
    assert!(reserve(&room, &proven("192.0.2.1")).await.is_ok());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[test]
fn hosts_are_told_apart_by_what_they_cannot_choose() {
    let same = |a: &str, b: &str| host(a.parse().unwrap()) == host(b.parse().unwrap());
    assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
    assert!(same("2001:db8::1", "2001:db8::ffff:1"));
    assert!(!same("192.0.2.1", "192.0.2.2"));
    assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_messages_has_one_in_flight_and_leaves_the_share_of_reads_alone() {
    let room = Arc::new(UnreadRoom::of_views());
    let connection = Connection::new(Some("192.0.2.1".parse().expect("an address")));
    let share = connection.unread_bytes().available_permits();
    let budget = CallBudget::of_messages(&room, Some(&connection));
    let mut first = budget.reserve_message(1_000).await.expect("room");
    first.answer(900);
    let second = budget.reserve_message(1);
    let waited = tokio::time::timeout(10 * PATIENCE, second).await;
    assert!(waited.is_err(), "the first was not taken yet");
    assert_eq!(connection.unread_bytes().available_permits(), share);
    drop(first);
    assert!(budget.reserve_message(1).await.is_ok());
}

/// Answers that nobody read once took gigabytes: their number was bounded, not their size.
#[tokio::test(start_paused = true)]
async fn who_takes_no_answers_gets_no_room_for_more_and_goes_when_others_wait() {
    let room = Arc::new(UnreadRoom::of_answers());
    let connection = Connection::new(Some("192.0.2.1".parse().expect("an address")));
    let silent = CallBudget::of_call(&room, Some(&connection));
    let size = ANSWER_BYTES_PER_HOST / 4;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut answer = silent.reserve_answer(size).await.expect("room");
        answer.answer(size);
        held.push(answer);
    }
    let elsewhere = Connection::new(Some("192.0.2.2".parse().expect("an address")));
    let other = CallBudget::of_call(&room, Some(&elsewhere));
    assert!(other.reserve_answer(size).await.is_ok());
    let refused = silent.reserve_answer(size).await.err().expect("no room");
    assert_eq!(refused.code, ErrorCode::ThrottlingQuotaExceeded);
    assert!(connection.is_closed());
    assert!(!elsewhere.is_closed());
}
