//! gRPC messages, read without a copy of what is large in them. tonic's own reader copies each
//! message out of its frames and again as its buffer grows; a record is read by its leader, by each
//! follower and by every consumer. The bytes on the wire are the same.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Buf;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::Body as _;
use parking_lot::Mutex;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use prost::{DecodeError, Message};
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::codec::{Codec as _, EncodeBody};
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceExt as _};

use crate::rope::Rope;

/// The call whose messages carry the batches of producers.
pub const PRODUCE_PATH: &str = "/ottla.v1.LogService/Produce";
/// The call whose messages carry batches to consumers.
pub const FETCH_PATH: &str = "/ottla.v1.LogService/Fetch";
/// The call whose messages carry batches to followers.
pub const REPLICATE_PATH: &str = "/ottla.v1.ReplicaService/Replicate";

/// What stands before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// What a message may be.
#[derive(Debug, Clone, Copy)]
pub struct MessageLimits {
    /// The most bytes that it has.
    pub bytes: usize,
    /// The most fields that it has, each entry of a repeated one counted. An entry of two bytes
    /// may take hundreds in memory.
    pub fields: usize,
}

impl MessageLimits {
    /// Of a peer that is trusted to send what it should.
    pub const fn of_bytes(bytes: usize) -> MessageLimits {
        let fields = usize::MAX;
        MessageLimits { bytes, fields }
    }
}

/// Where messages that have begun to come find room.
pub trait Room: Send {
    /// What is held of it until the message is there.
    type Part: Send;
    /// Takes so many bytes, waiting for others as long as it sees fit.
    fn take(&self, bytes: usize) -> impl Future<Output = Result<Self::Part, Status>> + Send;
    /// More of a message came.
    fn progressed(part: &Self::Part);
}

/// Room without end.
#[derive(Debug)]
pub struct NoBounds;

impl Room for NoBounds {
    type Part = ();

    async fn take(&self, _bytes: usize) -> Result<(), Status> {
        Ok(())
    }

    fn progressed(_part: &()) {}
}

/// The messages that a peer sends on one stream.
pub struct Messages<M, R: Room = NoBounds> {
    body: Body,
    received: Rope,
    limits: MessageLimits,
    room: R,
    /// What is held for a message that has begun.
    part: Option<R::Part>,
    _message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Messages<M> {
    pub fn new(body: Body, limits: MessageLimits) -> Messages<M> {
        Messages::within(body, limits, NoBounds)
    }
}

impl<M: Message + Default, R: Room> Messages<M, R> {
    /// Messages that take their room from `room` as soon as their length is known, unless they came
    /// whole.
    pub fn within(body: Body, limits: MessageLimits, room: R) -> Messages<M, R> {
        Messages {
            body,
            received: Rope::default(),
            limits,
            room,
            part: None,
            _message: PhantomData,
        }
    }

    /// The messages of a request to a service that is [`ReadByItself`].
    ///
    /// # Errors
    /// The service is not, or they were taken before.
    pub fn of<T>(
        request: &mut tonic::Request<T>,
        limits: MessageLimits,
        room: R,
    ) -> Result<Messages<M, R>, Status> {
        let body = request.extensions_mut().remove::<RawBody>();
        let body = body.and_then(|body| body.0.lock().take());
        let body = body.ok_or_else(|| Status::internal("the request's messages were taken"))?;
        Ok(Messages::within(body, limits, room))
    }

    /// The next message; `None` at the stream's end. Loses nothing if it is dropped while it
    /// waits.
    ///
    /// # Errors
    /// What the peer ended the stream with, or what is wrong with what it sent.
    pub async fn next(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.take()? {
                self.part = None;
                return Ok(Some(message));
            }
            if let (None, Some(bytes)) = (&self.part, self.length()) {
                self.part = Some(self.room.take(bytes).await?);
            }
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            let Some(frame) = frame.transpose()? else {
                return match self.received.has_remaining() {
                    true => Err(Status::internal("the stream ended within a message")),
                    false => Ok(None),
                };
            };
            match frame.into_data() {
                Ok(bytes) => {
                    self.received.push(bytes);
                    if let Some(part) = &self.part {
                        R::progressed(part);
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    match Status::from_header_map(&trailers) {
                        Some(status) if status.code() != Code::Ok => return Err(status),
                        _ => {}
                    }
                }
            }
        }
    }

    /// The first message of what was received, if all of it is there.
    fn take(&mut self) -> Result<Option<M>, Status> {
        let Some([compressed, ..]) = self.received.peek::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        if compressed != 0 {
            return Err(Status::unimplemented("messages are not compressed here"));
        }
        let length = self.length().unwrap_or(0);
        if length > self.limits.bytes {
            let text = format!(
                "the message is too large: {length} bytes; at most {} are taken",
                self.limits.bytes
            );
            return Err(Status::out_of_range(text));
        }
        if self.received.remaining() < PREFIX_BYTES + length {
            return Ok(None);
        }
        if self.limits.fields < usize::MAX {
            let mut look = self.received.look(PREFIX_BYTES + length);
            look.advance(PREFIX_BYTES);
            check_fields(look, self.limits.fields)?;
        }
        self.received.advance(PREFIX_BYTES);
        let message = M::decode((&mut self.received).take(length));
        message.map(Some).map_err(malformed)
    }

    /// The length of the message that comes next, if its prefix is there.
    fn length(&self) -> Option<usize> {
        let [_, length @ ..] = self.received.peek::<PREFIX_BYTES>()?;
        Some(u32::from_be_bytes(length) as usize)
    }
}

fn malformed(error: DecodeError) -> Status {
    Status::internal(format!("a message cannot be read: {error}"))
}

/// Refuses a message of too many fields before any of them takes memory.
fn check_fields(mut message: impl Buf, most: usize) -> Result<(), Status> {
    let mut count = 0;
    while message.has_remaining() {
        let (tag, wire_type) = decode_key(&mut message).map_err(malformed)?;
        let context = DecodeContext::default();
        skip_field(wire_type, tag, &mut message, context).map_err(malformed)?;
        count += 1;
        if count > most {
            let text = format!("the message has more than {most} fields and entries");
            return Err(Status::invalid_argument(text));
        }
    }
    Ok(())
}

/// Calls a method with messages in both directions. `path` is that of the method: service and
/// name.
///
/// # Errors
/// The peer cannot be reached, or refuses the call.
pub async fn open_stream<Q, A>(
    channel: Channel,
    path: &'static str,
    requests: impl Stream<Item = Q> + Send + 'static,
    limits: MessageLimits,
) -> Result<Messages<A>, Status>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let encoder = ProstCodec::<Q, A>::default().encoder();
    let body = EncodeBody::new_client(encoder, requests.map(Ok), None, None);
    let mut request = Request::new(Body::new(body));
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = Uri::from_static(path);
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, grpc);
    let response: Response<Body> = async { channel.clone().ready().await?.call(request).await }
        .await
        .map_err(|error| Status::from_error(error.into()))?;
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() != Code::Ok => return Err(status),
        _ => {}
    }
    if response.status() != http::StatusCode::OK {
        let text = format!("the peer answered with HTTP status {}", response.status());
        return Err(Status::unknown(text));
    }
    Ok(Messages::new(response.into_body(), limits))
}

/// A service one of whose methods reads its messages by [`Messages::of`], not from the stream that
/// it is given, which is empty.
#[derive(Debug, Clone)]
pub struct ReadByItself<S> {
    service: S,
    path: &'static str,
}

impl<S> ReadByItself<S> {
    /// `path` is that of the method: service and name.
    pub fn new(service: S, path: &'static str) -> ReadByItself<S> {
        ReadByItself { service, path }
    }
}

impl<S: NamedService> NamedService for ReadByItself<S> {
    const NAME: &'static str = S::NAME;
}

/// The body of a request on its way to the method that reads it. Shared because what goes with a
/// request must be.
#[derive(Clone)]
struct RawBody(Arc<Mutex<Option<Body>>>);

impl<S: Service<Request<Body>>> Service<Request<Body>> for ReadByItself<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.uri().path() == self.path {
            let body = std::mem::replace(request.body_mut(), Body::empty());
            let raw = RawBody(Arc::new(Mutex::new(Some(body))));
            request.extensions_mut().insert(raw);
        }
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut as _, Bytes, BytesMut};
    use http_body::Frame;

    use super::*;

    /// A body that comes in these pieces, with these trailers.
    struct Pieces(Vec<Bytes>, Option<http::HeaderMap>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            if !self.0.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(self.0.remove(0)))));
            }
            let trailers = self.1.take().map(Frame::trailers);
            Poll::Ready(trailers.map(Ok))
        }
    }

    fn encoded(messages: &[&str]) -> Bytes {
        let mut out = BytesMut::new();
        for message in messages.iter().map(|text| text.to_string()) {
            out.put_u8(0);
            out.put_u32(message.encoded_len() as u32);
            message.encode(&mut out).expect("a buffer that grows");
        }
        out.freeze()
    }

    const LIMITS: MessageLimits = MessageLimits {
        bytes: 100,
        fields: 20,
    };

    fn cut(bytes: &Bytes, at: usize) -> Vec<Bytes> {
        bytes.chunks(at).map(Bytes::copy_from_slice).collect()
    }

    fn messages(pieces: Vec<Bytes>, end: Option<Status>) -> Messages<String> {
        let trailers = end.map(|status| {
            let mut trailers = http::HeaderMap::new();
            status.add_header(&mut trailers).expect("a plain status");
            trailers
        });
        Messages::new(Body::new(Pieces(pieces, trailers)), LIMITS)
    }

    #[tokio::test]
    async fn messages_come_however_their_bytes_are_cut() {
        let long = "x".repeat(90);
        let bytes = encoded(&["one", "", &long]);
        for at in 1..=bytes.len() {
            let mut messages = messages(cut(&bytes, at), Some(Status::ok("")));
            for expected in ["one", "", &long] {
                let message = messages.next().await.expect("a message");
                assert_eq!(message.as_deref(), Some(expected));
            }
            assert_eq!(messages.next().await.expect("the end"), None);
        }
    }

    #[tokio::test]
    async fn a_message_of_too_many_fields_is_refused_before_it_is_read() {
        let fields = |count: usize| {
            let fields = [0x0a, 1, b'x'].repeat(count);
            let length = (fields.len() as u32).to_be_bytes();
            Bytes::from([&[0], &length[..], &fields].concat())
        };
        let most = LIMITS.fields;
        for at in [1, 7, 1_000] {
            let mut some = messages(cut(&fields(most), at), None);
            assert_eq!(some.next().await.expect("it is read").as_deref(), Some("x"));
            let mut many = messages(cut(&fields(most + 1), at), None);
            let error = many.next().await.expect_err("too many");
            assert_eq!(error.code(), Code::InvalidArgument);
        }
        let endless = Bytes::from_static(&[0, 0, 0, 0, 3, 0x0a, 0xff, 0x01]);
        let error = messages(vec![endless], None).next().await;
        assert_eq!(error.expect_err("no such length").code(), Code::Internal);
    }

    /// Room of which it is told what was asked for.
    struct Told(Arc<Mutex<Vec<usize>>>);

    impl Room for Told {
        type Part = Arc<()>;

        async fn take(&self, bytes: usize) -> Result<Arc<()>, Status> {
            self.0.lock().push(bytes);
            Ok(Arc::default())
        }

        fn progressed(_part: &Arc<()>) {}
    }

    #[tokio::test]
    async fn only_messages_that_do_not_come_at_once_take_room_and_only_once() {
        let long = "x".repeat(90);
        let bytes = encoded(&["one", &long, "two"]);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let body = Body::new(Pieces(cut(&bytes, 30), None));
        let room = Told(Arc::clone(&asked));
        let mut messages = Messages::<String, Told>::within(body, LIMITS, room);
        for expected in ["one", &long, "two"] {
            let message = messages.next().await.expect("a message");
            assert_eq!(message.as_deref(), Some(expected));
            assert!(messages.part.is_none(), "it is given back");
        }
        assert_eq!(asked.lock()[..], [92]);
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_stream_is_told() {
        let bytes = encoded(&["one"]);
        let mut within = messages(vec![bytes.slice(..bytes.len() - 1)], None);
        let error = within.next().await.expect_err("the end is missing");
        assert_eq!(error.message(), "the stream ended within a message");

        let mut ended = messages(vec![bytes.clone()], Some(Status::unavailable("gone")));
        assert!(ended.next().await.is_ok());
        let error = ended.next().await.expect_err("the peer's status");
        assert_eq!((error.code(), error.message()), (Code::Unavailable, "gone"));

        // Refused by its prefix, before any of it is waited for.
        let mut long = messages(vec![Bytes::from_static(&[0, 0, 0, 0, 101])], None);
        let error = long.next().await.expect_err("too long");
        assert_eq!(error.code(), Code::OutOfRange);
        assert_eq!(
            error.message(),
            "the message is too large: 101 bytes; at most 100 are taken"
        );

        let mut packed = messages(vec![Bytes::from_static(&[1, 0, 0, 0, 1, 0])], None);
        let error = packed.next().await.expect_err("compressed");
        assert_eq!(error.code(), Code::Unimplemented);

        let mut garbage = messages(vec![Bytes::from_static(&[0, 0, 0, 0, 1, 0xff])], None);
        let error = garbage.next().await.expect_err("no message");
        assert!(error.message().starts_with("a message cannot be read: "));
    }
}
