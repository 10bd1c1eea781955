use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator,
    trace::{SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider},
};
use opentelemetry_http::{HeaderExtractor, HeaderInjector, HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};
use tokio::runtime::Handle;

use super::{TraceError, are_wanted};
use crate::proxy::observability::metrics::{Label, Outcome};

/// How long the collector may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer of a collector that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// What the spans come from, unless `OTEL_SERVICE_NAME` says otherwise.
const SERVICE_NAME: &str = "mcp-oauth-proxy";

/// Makes spans and sends them to a collector, by OTLP over HTTP.
#[derive(Debug, Default)]
pub struct Tracer(Option<(SdkTracerProvider, SdkTracer)>);

/// The span of a request, if there is a tracer.
pub struct Span(Option<Context>);

impl Tracer {
    /// As the variables of OpenTelemetry have it: `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`,
    /// `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`. Sends on `control`.
    ///
    /// # Errors
    /// When they are not right.
    pub fn from_environment(control: &Handle) -> Result<Self, TraceError> {
        if are_wanted() { Self::sending(None, control) } else { Ok(Self::default()) }
    }

    /// Sends to this address, or where the environment says.
    pub fn sending(endpoint: Option<&str>, control: &Handle) -> Result<Self, TraceError> {
        let connector = HttpsConnectorBuilder::new().with_native_roots().map_err(|error| TraceError(error.into()))?;
        let client = Client::builder(TokioExecutor::new()).build(connector.https_or_http().enable_http1().build());
        let mut exporter =
            SpanExporter::builder().with_http().with_http_client(Collector { client, control: control.clone() });
        if let Some(endpoint) = endpoint {
            exporter = exporter.with_endpoint(endpoint);
        }
        let exporter = exporter.build().map_err(|error| TraceError(error.into()))?;
        let resource = Resource::builder();
        let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
            Some(_) => resource,
            None => resource.with_service_name(SERVICE_NAME),
        };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
        Ok(Self(Some((provider, tracer))))
    }

    /// The span of a request, which goes on with the trace that its headers name.
    pub fn begin(&self, request: &Parts) -> Span {
        let Some((_, tracer)) = &self.0 else { return Span(None) };
        let parent = TraceContextPropagator::new().extract(&HeaderExtractor(&request.headers));
        // The names are OpenTelemetry's (semantic conventions, HTTP spans). No query: it may hold anything.
        let span = tracer
            .span_builder(request.method.as_str().to_owned())
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("http.request.method", request.method.as_str().to_owned()),
                KeyValue::new("url.path", request.uri.path().to_owned()),
            ])
            .start_with_context(tracer, &parent);
        Span(Some(parent.with_span(span)))
    }

    /// Sends what has not been sent yet.
    pub async fn shut_down(&self) {
        let Some((provider, _)) = self.0.clone() else { return };
        // It waits for a thread of its own, which waits for this runtime.
        match tokio::task::spawn_blocking(move || provider.shutdown()).await {
            Ok(Ok(())) => (),
            Ok(Err(error)) => tracing::warn!(%error, "the last traces could not be exported"),
            Err(error) => tracing::warn!(%error, "the last traces could not be exported"),
        }
    }
}

impl Span {
    /// The headers that name the span to the upstream, in the place of the client's.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(context) = &self.0 {
            TraceContextPropagator::new().inject_context(context, &mut HeaderInjector(&mut headers));
        }
        headers
    }

    /// The head of the answer is there.
    pub fn end(self, outcome: Outcome, status: StatusCode) {
        let Some(context) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        span.set_attribute(KeyValue::new("mcp_oauth_proxy.outcome", outcome.text()));
        if status.is_server_error() {
            span.set_status(Status::error(outcome.text()));
        }
        span.end();
    }
}

/// Speaks to the collector: with the TLS that everything here is spoken with, on the control runtime.
#[derive(Debug)]
struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    control: Handle,
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let asking = self.client.request(request.map(Full::new));
        let exchange = async {
            let (head, body) = asking.await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        // The exporter asks from a thread without a runtime.
        self.control.spawn(async move { tokio::time::timeout(TIMEOUT, exchange).await }).await??
    }
}
