//! What was reserved for an answer stays reserved until the connection has taken its bytes. Neither
//! the handler nor the stream of answers knows when that is: the HTTP/2 layer keeps what the
//! reader's window has no room for. So the reservation goes with the bytes, which are handed over
//! in pieces: each that is asked for, or is gone, tells that the reader gets on.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio_stream::Stream;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::unread::Unread;

/// The bytes handed over at a time: what a slow reader takes in a second or two.
const PIECE_BYTES: usize = 64 * 1024;

/// What the answers hold that are made but not yet encoded.
#[derive(Clone, Default)]
pub struct Held(Arc<Mutex<Vec<Unread>>>);

impl Held {
    /// Adds those of an answer that is about to be handed over.
    pub fn hold(&self, unread: Unread) {
        self.0.lock().push(unread);
    }

    /// Has the answers of this response hold them until they are sent, or their reader is gone.
    pub fn until_sent<T>(self, response: &mut tonic::Response<T>) {
        response.extensions_mut().insert(self);
    }
}

/// Answers that are encoded already. They take the place of a response's own, which encodes each
/// by itself: what many are told at once is in memory once.
#[derive(Clone)]
pub struct Encoded(Arc<Mutex<Option<Answers>>>);

/// Messages with their gRPC prefix, whole or in pieces, up to the first error.
type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

impl Encoded {
    /// Has the response consist of these answers.
    pub fn instead_of<T>(
        response: &mut tonic::Response<T>,
        answers: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
    ) {
        let answers: Answers = Box::pin(answers);
        let encoded = Encoded(Arc::new(Mutex::new(Some(answers))));
        response.extensions_mut().insert(encoded);
    }

    /// The body of these answers, or the one that was there.
    fn or(self, body: Body) -> Body {
        match self.0.lock().take() {
            Some(answers) => Body::new(EncodedBody(Some(answers))),
            None => body,
        }
    }
}

/// A message as gRPC sends it: whether it is compressed, its length, and itself.
pub fn encoded(message: &impl prost::Message) -> Bytes {
    let bytes = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + bytes);
    out.put_u8(0);
    out.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
    // The buffer grows as needed, so nothing can be wrong with it.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// A body of answers that are encoded already.
struct EncodedBody(Option<Answers>);

impl HttpBody for EncodedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(answers) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let end = match ready!(answers.as_mut().poll_next(context)) {
            Some(Ok(answer)) => return Poll::Ready(Some(Ok(Frame::data(answer)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.0 = None;
        let mut trailers = HeaderMap::new();
        let told = end.add_header(&mut trailers);
        Poll::Ready(Some(told.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// A service whose answers may hold what was reserved for them, or be encoded already.
#[derive(Debug, Clone)]
pub struct HoldUntilSent<S>(S);

impl<S> HoldUntilSent<S> {
    pub fn new(service: S) -> HoldUntilSent<S> {
        HoldUntilSent(service)
    }
}

impl<S: NamedService> NamedService for HoldUntilSent<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for HoldUntilSent<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answering = self.0.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            if let Some(encoded) = response.extensions_mut().remove::<Encoded>() {
                response = response.map(|body| encoded.or(body));
            }
            Ok(match response.extensions_mut().remove::<Held>() {
                None => response,
                Some(held) => response.map(|body| Body::new(HeldBody::new(body, held))),
            })
        })
    }
}

/// A body whose bytes carry what is held of the answers in them.
struct HeldBody {
    body: Body,
    held: Held,
    /// What is not handed over yet of the bytes that the body gave last.
    rest: Bytes,
    /// What those bytes hold.
    of_rest: Arc<[Unread]>,
    /// The size of the piece that was handed over last.
    last: usize,
}

impl HeldBody {
    fn new(body: Body, held: Held) -> HeldBody {
        HeldBody {
            body,
            held,
            rest: Bytes::new(),
            of_rest: Arc::default(),
            last: 0,
        }
    }

    /// The reader is ready for more.
    fn ask(&mut self) {
        let took = std::mem::take(&mut self.last);
        if let Some(unread) = self.of_rest.first().filter(|_| took > 0) {
            unread.took(took);
        }
        if self.rest.is_empty() {
            self.of_rest = Arc::default();
        }
    }

    fn piece(&mut self) -> Bytes {
        let bytes = self.rest.split_to(PIECE_BYTES.min(self.rest.len()));
        if self.of_rest.is_empty() {
            return bytes;
        }
        self.last = bytes.len();
        Bytes::from_owner(Piece {
            bytes,
            of: Arc::clone(&self.of_rest),
        })
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ask();
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.piece()))));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            ended => return Poll::Ready(ended),
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(bytes) => {
                let of = std::mem::take(&mut *self.held.0.lock());
                self.of_rest = of.into();
                self.rest = bytes;
                Frame::data(self.piece())
            }
            Err(frame) => frame,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let hint = self.body.size_hint();
        let mut both = SizeHint::new();
        both.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            both.set_upper(upper + rest);
        }
        both
    }
}

/// A piece of an answer, and what is returned when nobody needs any of its pieces any more.
struct Piece {
    bytes: Bytes,
    of: Arc<[Unread]>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(unread) = self.of.first() {
            unread.left();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;
    use ottla_shell::Connection;

    use super::super::unread::{CallBudget, UnreadRoom};
    use super::*;

    #[tokio::test]
    async fn what_an_answer_holds_is_returned_with_its_last_piece() {
        let connection = Connection::new(None);
        let share = connection.share();
        let budget = CallBudget::of_call(&Arc::new(UnreadRoom::default()), Some(&connection));
        let whole = vec![7; 3 * PIECE_BYTES + 1];
        let held = Held::default();
        let mut unread = budget.reserve(1).await.expect("room");
        unread.answer(whole.len());
        held.hold(unread);
        let left = || connection.unread_bytes().available_permits();
        assert_eq!(left(), share - whole.len());

        let body = Body::new(String::from_utf8(whole.clone()).expect("text"));
        let mut body = HeldBody::new(body, held);
        let waker = noop_waker();
        let mut context = Context::from_waker(&waker);
        let mut pieces = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) {
            pieces.push(frame.into_data().expect("data"));
        }
        assert!(body.is_end_stream());
        assert_eq!(pieces.iter().map(Bytes::len).max(), Some(PIECE_BYTES));
        assert_eq!(pieces.concat(), whole);
        drop(body);
        // All of it was asked for, so the share is larger; the bytes are still here.
        assert_eq!(connection.share(), share + whole.len());
        let last = pieces.pop();
        drop(pieces);
        assert_eq!(left(), share);
        drop(last);
        assert_eq!(left(), share + whole.len());
    }
}
