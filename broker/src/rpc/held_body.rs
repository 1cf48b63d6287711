//! What an answer holds until it has left. A call that is answered once has no stream to hold a
//! budget in: the handler is done long before a slow reader has taken the bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

type Held = Arc<Vec<OwnedSemaphorePermit>>;

/// Has these permits returned once the answer is sent, or its caller is gone.
pub fn hold_until_sent<T>(response: &mut tonic::Response<T>, permits: Vec<OwnedSemaphorePermit>) {
    response.extensions_mut().insert::<Held>(Arc::new(permits));
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
                Some(held) => response.map(|body| Body::new(HeldBody { body, _held: held })),
            })
        })
    }
}

/// A body that is dropped when the connection has taken all of it.
struct HeldBody {
    body: Body,
    _held: Held,
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
