//! TLS errors: the client does not trust the server, or the server does not trust the client.

use super::{BoxError, Met};
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Empty;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::future::ready;
use std::io;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS12;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tower::service_fn;

/// A self-signed certificate for `localhost`, and a store that trusts it.
struct Identity {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Identity {
    fn valid_until(year: i32) -> Self {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, key }
    }

    fn trusted(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add(self.certificate.der().clone()).unwrap();
        store
    }

    /// A server that uses this certificate and accepts client certificates from these authorities.
    fn server(&self, clients: Option<RootCertStore>) -> ServerConfig {
        let server = ServerConfig::builder();
        let server = match clients {
            None => server.with_no_client_auth(),
            Some(clients) => {
                let verifier = WebPkiClientVerifier::builder(Arc::new(clients));
                server.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let chain = vec![self.certificate.der().clone()];
        server.with_single_cert(chain, key).unwrap()
    }
}

pub(crate) async fn met() -> Met {
    let row = "certificate that is not trusted";
    let valid = Identity::valid_until(4096);
    let expired = Identity::valid_until(2000);
    let nobody = RootCertStore::empty();
    let mut met = Met::new();
    for (server, trusted, host) in [
        (valid.server(None), nobody, "localhost"),
        (valid.server(None), valid.trusted(), "127.0.0.1"),
        (expired.server(None), expired.trusted(), "localhost"),
        (
            valid.server(Some(valid.trusted())),
            valid.trusted(),
            "localhost",
        ),
    ] {
        met.push((row, handshake(server, trusted, host).await));
    }
    for words in [
        "error:0A000086:SSL routines:tls_post_process_server_certificate:certificate verify failed:\
         ../ssl/statem/statem_clnt.c:1889: (self-signed certificate)",
        "error:0A000418:SSL routines:ssl3_read_bytes:tlsv1 alert unknown ca:\
         ../ssl/record/rec_layer_s3.c:1586:SSL alert number 48",
    ] {
        met.push((row, error_of_a_connector(words).await));
    }
    for words in [
        "error:0A000438:SSL routines:ssl3_read_bytes:tlsv1 alert internal error:\
         ../ssl/record/rec_layer_s3.c:1586:SSL alert number 80",
        "received fatal alert: InternalError",
        "the certificate service is away",
    ] {
        met.push(("TLS handshake failed", error_of_a_connector(words).await));
    }
    met
}

/// The error of a TLS library other than rustls, which is recognized by its message.
async fn error_of_a_connector(words: &'static str) -> BoxError {
    let connector = service_fn(move |_: Uri| {
        let error = io::Error::new(io::ErrorKind::InvalidData, words);
        ready(Err::<TokioIo<TcpStream>, _>(error))
    });
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get("https://localhost/").body(Empty::<Bytes>::new());
    client.request(request.unwrap()).await.unwrap_err().into()
}

/// The error of a handshake by a client that trusts these authorities.
async fn handshake(server: ServerConfig, trusted: RootCertStore, host: &str) -> BoxError {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let _refused = acceptor.accept(stream).await;
    });
    // Not TLS 1.3: there the client has finished its handshake before the server refuses the
    // certificate.
    let client = ClientConfig::builder_with_protocol_versions(&[&TLS12]);
    let client = client.with_root_certificates(trusted).with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(client);
    let connector = connector.https_only().enable_http1().build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(format!("https://{host}:{port}/"));
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    client.request(request).await.unwrap_err().into()
}
