//! Which protocol a connection speaks, by its first bytes. A gRPC client is only let in with its
//! whole opening, so that nobody holds a server's attention with half of one.

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Grpc,
    Http1,
    Tls,
    /// A length of four bytes, as Kafka's requests begin.
    Kafka,
    Unknown,
}

/// As many first bytes as can be needed to tell.
pub const OPENING_BYTES_MAX: usize = PREFACE.len() + FRAME_HEADER_BYTES + SETTINGS_BYTES_MAX;

/// The largest request a Kafka client may send (`socket.request.max.bytes`).
const KAFKA_REQUEST_MAX: u32 = 100 * 1024 * 1024;
/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
const SETTINGS_FRAME: u8 = 4;
/// Room for many more settings than are defined, at six bytes each.
const SETTINGS_BYTES_MAX: usize = 64 * 6;

/// Tells the protocol from all that a connection has said so far; `None` if that is too little.
pub fn door(said: &[u8]) -> Option<Door> {
    const METHODS: [&[u8]; 9] = [
        b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"CONN", b"TRAC", b"PATC",
    ];
    let first = said.first_chunk::<4>()?;
    if PREFACE.starts_with(first) {
        return http2(said);
    }
    Some(if METHODS.contains(&&first[..]) {
        Door::Http1
    } else if first[0] == 0x16 && first[1] == 3 {
        Door::Tls
    } else if (8..=KAFKA_REQUEST_MAX).contains(&u32::from_be_bytes(*first)) {
        Door::Kafka
    } else {
        Door::Unknown
    })
}

/// HTTP/2 begins with its preface and the client's settings.
fn http2(said: &[u8]) -> Option<Door> {
    let common = said.len().min(PREFACE.len());
    if said[..common] != PREFACE[..common] {
        return Some(Door::Unknown);
    }
    let frame = said.get(PREFACE.len()..)?;
    let [a, b, c, kind, flags, stream @ ..] = *frame.first_chunk::<FRAME_HEADER_BYTES>()?;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let is_settings = kind == SETTINGS_FRAME && flags == 0 && stream == [0; 4];
    if !is_settings || length > SETTINGS_BYTES_MAX || !length.is_multiple_of(6) {
        return Some(Door::Unknown);
    }
    (frame.len() >= FRAME_HEADER_BYTES + length).then_some(Door::Grpc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_door() {
        assert_eq!(door(b"GET "), Some(Door::Http1));
        assert_eq!(door(b"POST / HTTP/1.1"), Some(Door::Http1));
        assert_eq!(door(&[0x16, 3, 1, 2]), Some(Door::Tls));
        assert_eq!(door(&[0, 0, 0, 42]), Some(Door::Kafka));
        assert_eq!(door(&[0xff; 4]), Some(Door::Unknown));
        assert_eq!(door(&[0; 4]), Some(Door::Unknown));
        assert_eq!(door(b"PRI X"), Some(Door::Unknown));
    }

    #[test]
    fn grpc_is_let_in_with_its_whole_opening_and_not_before() {
        let opening = |settings: &[u8]| {
            let length = u8::try_from(settings.len()).unwrap();
            [PREFACE, &[0, 0, length, 4, 0, 0, 0, 0, 0], settings].concat()
        };
        for settings in [&[][..], &[0, 3, 0, 0, 0, 100], &[0; 18]] {
            let whole = opening(settings);
            for end in 0..whole.len() {
                assert_eq!(door(&whole[..end]), None, "{end} bytes");
            }
            assert_eq!(door(&whole), Some(Door::Grpc));
            assert_eq!(door(&[&whole[..], b"more"].concat()), Some(Door::Grpc));
        }
    }

    #[test]
    fn what_begins_like_http2_and_goes_on_otherwise_is_not_waited_for() {
        let with = |frame: [u8; 9]| door(&[PREFACE, &frame].concat());
        for frame in [
            // Headers, an acknowledgement, settings of a stream, half a setting, too many.
            [0, 0, 0, 1, 0, 0, 0, 0, 0],
            [0, 0, 0, 4, 1, 0, 0, 0, 0],
            [0, 0, 0, 4, 0, 0, 0, 0, 1],
            [0, 0, 5, 4, 0, 0, 0, 0, 0],
            [0, 0x40, 2, 4, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(with(frame), Some(Door::Unknown), "{frame:?}");
        }
    }
}
