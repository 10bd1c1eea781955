//! Raw bytes: an upstream that records its input and accepts only well-formed requests, and a client that sends arbitrary
//! bytes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

/// A request as the upstream parsed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sent {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Sent {
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

type Answer = Box<dyn Fn(&Sent) -> String + Send + Sync>;

/// The input of each connection of the upstream.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<Vec<u8>>>);

impl Recorder {
    /// A proxy for an upstream with these responses.
    pub async fn bed(answer: impl Fn(&Sent) -> String + Send + Sync + 'static) -> (Arc<Self>, Bed) {
        let recorder = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, shared): (Arc<Answer>, _) = (Arc::new(Box::new(answer)), recorder.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(shared.clone().connection(stream, answer.clone()));
            }
        });
        let bed = Bed::builder().upstream(address).start().await;
        (recorder, bed)
    }

    async fn connection(self: Arc<Self>, mut stream: TcpStream, answer: Arc<Answer>) {
        let index = {
            let mut connections = self.0.lock().unwrap();
            connections.push(Vec::new());
            connections.len() - 1
        };
        let (mut answered, mut buffer) = (0, [0; 4096]);
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let requests = {
                let mut connections = self.0.lock().unwrap();
                connections[index].extend_from_slice(&buffer[..read]);
                requests(&connections[index]).map_or_else(|_| Vec::new(), |(requests, _)| requests)
            };
            for request in requests.iter().skip(answered) {
                let _ = stream.write_all(answer(request).as_bytes()).await;
            }
            answered = requests.len();
        }
    }

    /// All complete requests so far. An error if a connection has other input, except for an incomplete request at its end.
    pub fn requests(&self) -> Result<Vec<Sent>, String> {
        let mut all = Vec::new();
        for connection in self.0.lock().unwrap().iter() {
            all.extend(requests(connection)?.0);
        }
        Ok(all)
    }

    /// All input as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap().concat()).into_owned()
    }
}

/// A response with this status line, these header lines and a body.
pub fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// The complete requests at the start of a connection, and the rest. As strict as RFC 9112 allows.
fn requests(mut bytes: &[u8]) -> Result<(Vec<Sent>, &[u8]), String> {
    let mut found = Vec::new();
    while let Some((head, rest)) = split(bytes, b"\r\n\r\n") {
        let head = std::str::from_utf8(head).map_err(|error| error.to_string())?;
        let mut lines = head.split("\r\n");
        let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let &[method, target, "HTTP/1.1"] = &line[..] else { return Err(format!("no request line: {line:?}")) };
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(": ").ok_or(format!("no header: {line:?}"))?;
            let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            if name.is_empty() || !name.chars().all(token) || value.chars().any(char::is_control) {
                return Err(format!("no header: {line:?}"));
            }
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut sent = Sent { method: method.to_owned(), target: target.to_owned(), headers, body: Vec::new() };
        let after = match (&sent.values("content-length")[..], &sent.values("transfer-encoding")[..]) {
            ([], []) => Some(rest),
            ([length], []) => {
                let length: usize = length.parse().map_err(|_| format!("no length: {length}"))?;
                let whole = rest.split_at_checked(length);
                whole.map(|(body, after)| {
                    sent.body = body.to_vec();
                    after
                })
            }
            ([], ["chunked"]) => chunks(rest, &mut sent.body)?,
            framing => return Err(format!("framed twice: {framing:?}")),
        };
        let Some(after) = after else { break };
        bytes = after;
        found.push(sent);
    }
    Ok((found, bytes))
}

/// Reads a chunked body without extensions and trailers. Returns the rest, or `None` if the body is incomplete.
fn chunks<'a>(mut bytes: &'a [u8], body: &mut Vec<u8>) -> Result<Option<&'a [u8]>, String> {
    while let Some((size, rest)) = split(bytes, b"\r\n") {
        let size = std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| format!("no chunk size: {:?}", String::from_utf8_lossy(bytes)))?;
        let Some((data, rest)) = rest.split_at_checked(size) else { return Ok(None) };
        let Some(rest) = rest.strip_prefix(b"\r\n") else {
            return if rest.len() < 2 { Ok(None) } else { Err("a chunk without an end, or a trailer".to_owned()) };
        };
        if size == 0 {
            return Ok(Some(rest));
        }
        body.extend_from_slice(data);
        bytes = rest;
    }
    Ok(None)
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let index = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..index], &bytes[index + at.len()..]))
}

/// Sends bytes over a new connection, and reads until the proxy closes it.
pub async fn exchange(bed: &Bed, bytes: &[u8]) -> String {
    let (mut reader, mut writer) = TcpStream::connect(bed.address).await.unwrap().into_split();
    // The proxy may refuse it, and close, before all is sent.
    let _ = writer.write_all(bytes).await;
    let mut answers = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), reader.read_to_end(&mut answers)).await;
    assert!(closed.is_ok(), "left open: {}", String::from_utf8_lossy(&answers));
    String::from_utf8_lossy(&answers).into_owned()
}

/// The statuses of all responses in a text.
pub fn statuses(answers: &str) -> Vec<u16> {
    answers.split("HTTP/1.").skip(1).filter_map(|answer| answer.get(2..5)?.parse().ok()).collect()
}

#[test]
fn recording_upstream_rejects_malformed_requests() {
    let whole =
        b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
    let (found, rest) = requests(whole).unwrap();
    assert_eq!((found.len(), &found[0].body[..], rest.len()), (2, &b"hi"[..], 0));
    for bad in [
        "GET /a HTTP/1.0\r\n\r\n",
        "GET /a HTTP/1.1\r\na : b\r\n\r\n",
        "GET /a HTTP/1.1\r\n a: b\r\n\r\n",
        "GET /a HTTP/1.1\r\na: b\nc: d\r\n\r\n",
        "POST /a HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
        "POST /a HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\na",
        "POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2;x\r\nhi\r\n0\r\n\r\n",
        "POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n",
    ] {
        assert!(requests(bad.as_bytes()).is_err(), "{bad}");
    }
}
