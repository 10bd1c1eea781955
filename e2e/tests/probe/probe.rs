//! The program of test pods: returns its name, resolves names and calls hosts. Uses only the standard library and is
//! compiled with rustc directly.
//!
//! `GET /` returns the pod's name, `/lookup/NAME:PORT` the addresses, `/call/HOST:PORT` the response of HOST.

use std::{
    env,
    io::{Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    thread,
};

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:8080")?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || serve(stream));
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let length = stream.read(&mut request)?;
    let request = String::from_utf8_lossy(&request[..length]);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let body = respond(path).unwrap_or_else(|error| format!("error: {error}"));
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn respond(path: &str) -> std::io::Result<String> {
    if let Some(name) = path.strip_prefix("/lookup/") {
        return Ok(name.to_socket_addrs()?.map(|found| found.ip().to_string()).collect::<Vec<_>>().join(" "));
    }
    if let Some(host) = path.strip_prefix("/call/") {
        let mut called = TcpStream::connect(host)?;
        write!(called, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        called.read_to_string(&mut text)?;
        return Ok(text.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned());
    }
    Ok(env::var("HOSTNAME").unwrap_or_default())
}
