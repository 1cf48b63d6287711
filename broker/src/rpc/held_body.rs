//! What was reserved for an answer stays reserved until the connection has taken its bytes. Neither
//! the handler nor the stream of answers knows when that is: the HTTP/2 layer takes a whole message
//! at once and keeps what the reader's window has no room for. So the permits go with the bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

/// The permits of the answers that are made but not yet encoded.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<Vec<OwnedSemaphorePermit>>>);

impl Held {
    /// Adds those of an answer that is about to be handed over.
    pub fn hold(&self, permits: Vec<OwnedSemaphorePermit>) {
        self.0.lock().extend(permits);
    }

    /// Has the answers of this response hold them until they are sent, or their reader is gone.
    pub fn until_sent<T>(self, response: &mut tonic::Response<T>) {
        response.extensions_mut().insert(self);
    }
}

/// A service whose answers may hold permits.
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
            Ok(match response.extensions_mut().remove::<Held>() {
                None => response,
                Some(held) => response.map(|body| Body::new(HeldBody { body, held })),
            })
        })
    }
}

/// A body whose bytes carry the permits of the answers in them.
struct HeldBody {
    body: Body,
    held: Held,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let with_permits = |bytes| {
            let permits = std::mem::take(&mut *self.held.0.lock());
            match permits.is_empty() {
                true => bytes,
                false => Bytes::from_owner(Carrying {
                    bytes,
                    _permits: permits,
                }),
            }
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(with_permits))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes, and the permits that are returned when nobody needs them any more.
struct Carrying {
    bytes: Bytes,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Carrying {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
