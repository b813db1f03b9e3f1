//! An HTTP/2 server that is written frame by frame (RFC 9113), so that it can refuse streams as no
//! server library does.

use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// An accepted connection.
pub(crate) struct Frames {
    stream: TcpStream,
}

impl Frames {
    pub(crate) async fn accept(listener: &TcpListener) -> io::Result<Self> {
        let (mut stream, _) = listener.accept().await?;
        stream.read_exact(&mut [0; 24]).await?; // the preface
        let mut frames = Self { stream };
        frames.send(SETTINGS, 0, 0, &[]).await?;
        Ok(frames)
    }

    /// Reads one whole request, and returns its stream.
    pub(crate) async fn request(&mut self) -> io::Result<u32> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.stream.read_exact(&mut payload).await?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await?,
                PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload).await?,
                HEADERS | DATA if flags & END_STREAM != 0 => return Ok(u32::from_be_bytes(id)),
                _ => {}
            }
        }
    }

    /// Responds with a 200 and no body.
    pub(crate) async fn respond(&mut self, id: u32) -> io::Result<()> {
        // RFC 7541, appendix A: entry 8 of the static table is `:status: 200`.
        self.send(HEADERS, END_HEADERS | END_STREAM, id, &[0x88])
            .await
    }

    /// The head of a gRPC response.
    pub(crate) async fn head(&mut self, id: u32) -> io::Result<()> {
        let content_type = literal("content-type", "application/grpc");
        let fields = [&[0x88], &content_type[..]].concat();
        self.send(HEADERS, END_HEADERS, id, &fields).await
    }

    /// The head of a gRPC response and its trailers, so that they arrive together.
    pub(crate) async fn head_and_trailers(&mut self, id: u32, status: &str) -> io::Result<()> {
        let content_type = literal("content-type", "application/grpc");
        let head = frame(
            HEADERS,
            END_HEADERS,
            id,
            &[&[0x88], &content_type[..]].concat(),
        );
        let status = literal("grpc-status", status);
        let trailers = frame(HEADERS, END_HEADERS | END_STREAM, id, &status);
        self.stream.write_all(&[head, trailers].concat()).await
    }

    /// A message of this gRPC response.
    pub(crate) async fn message(&mut self, id: u32, message: &[u8]) -> io::Result<()> {
        let length = (message.len() as u32).to_be_bytes();
        let framed = [&[0], &length[..], message].concat();
        self.send(DATA, 0, id, &framed).await
    }

    /// The trailers of a gRPC response, which end it.
    pub(crate) async fn trailers(&mut self, id: u32, status: &str) -> io::Result<()> {
        let fields = literal("grpc-status", status);
        self.send(HEADERS, END_HEADERS | END_STREAM, id, &fields)
            .await
    }

    pub(crate) async fn reset(&mut self, id: u32, code: u32) -> io::Result<()> {
        self.send(RST_STREAM, 0, id, &code.to_be_bytes()).await
    }

    /// Ends the connection. Streams above `last` were not processed.
    pub(crate) async fn go_away(&mut self, last: u32, code: u32) -> io::Result<()> {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.send(GOAWAY, 0, 0, &payload).await
    }

    async fn send(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> io::Result<()> {
        self.stream
            .write_all(&frame(kind, flags, id, payload))
            .await
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    let head = [&length[..], &[kind, flags], &id.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A header field as a literal that is not indexed (RFC 7541 §6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let string = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [&[0][..], &string(name), &string(value)].concat()
}
