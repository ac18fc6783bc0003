//! Where a plugin may call: URLs and their beginnings, read so strictly that what was compared is what is called.
//!
//! A server reads a URL in its own way: it resolves `..`, decodes `%2e`, takes `0x7f.1` for an address. What could be read in
//! two ways is no URL here, or is covered by no prefix with a path.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longer URLs are no addresses of an API.
pub const URL_BYTES_MAX: usize = 2048;
/// Names of hosts end here (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
/// Something that is encoded over and over is an attempt at hiding it.
const DECODINGS_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }

    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// In lower case.
    Name(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

/// Scheme, host and port: `https://api.carrier.example`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
}

/// The beginning of URLs: a server and a path. A path that does not end in `/` covers itself and what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPrefix {
    pub server: Server,
    path: String,
}

impl Host {
    /// # Errors
    /// What is wrong with it, in words.
    fn parse(text: &str) -> Result<Self, &'static str> {
        if let Some(inside) = text.strip_prefix('[') {
            let address = inside.strip_suffix(']').and_then(|inside| inside.parse().ok());
            return address.map(Self::V6).ok_or("has no IPv6 address between its brackets");
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(legal) {
            return Err("has a host that is no name: use letters, digits, '-' and '.'");
        }
        // Resolvers take all of 2130706433, 0x7f.1 and 0177.0.0.1 for 127.0.0.1: a last label that is a number makes an address.
        let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        let hexadecimal = last.get(..2).is_some_and(|begin| begin.eq_ignore_ascii_case("0x"));
        if hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::V4).map_err(|_| "has a number for a host: write an address as 192.0.2.1");
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

impl Server {
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(scheme: &str, authority: &str) -> Result<Self, &'static str> {
        let scheme = Scheme::parse(scheme).ok_or("does not begin with http:// or https://")?;
        // `https://carrier.example@evil.test/` leads elsewhere than it reads.
        if authority.contains('@') {
            return Err("has a user name before its host");
        }
        let host_end = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority.get(host_end..).unwrap_or_default().rfind(':') {
            Some(colon) => authority.split_at(host_end + colon),
            None => (authority, ""),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port > 0).ok_or("has no port from 1 to 65535")?
            }
            Some(_) => return Err("has no port from 1 to 65535"),
            None => scheme.port(),
        };
        Ok(Self { scheme, host: Host::parse(host)?, port })
    }

    /// Host and port, the port left out where the scheme says it.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == self.scheme.port() { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl UrlPrefix {
    /// # Errors
    /// What is wrong with it, in words that continue "the URL …".
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > URL_BYTES_MAX {
            return Err(format!("has {} bytes; at most {URL_BYTES_MAX} are allowed", text.len()));
        }
        let (scheme, rest) = text.split_once("://").ok_or("is not a URL")?;
        // As a prefix, `https://carrier.example` would allow `https://carrier.example.evil.test` as well.
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => return Err(format!("ends before its path: write {:?}", format!("{text}/"))),
        };
        let server = Server::parse(scheme, authority)?;
        let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'\\');
        if !path.bytes().all(legal) {
            return Err("has a path with other than visible ASCII letters, or with ?, # or \\".to_owned());
        }
        if !is_straight(path) {
            return Err("has a path that goes through . or ..".to_owned());
        }
        Ok(Self { server, path: path.to_owned() })
    }

    /// Whether every URL that begins with `other` begins with this.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.covers_path(&other.server, &other.path)
    }

    /// Whether a URL begins with this; `path` without its query.
    #[must_use]
    pub fn covers_path(&self, server: &Server, path: &str) -> bool {
        if self.server != *server {
            return false;
        }
        if self.path == "/" {
            return true;
        }
        let Some(below) = path.strip_prefix(&self.path) else { return false };
        (self.path.ends_with('/') || below.is_empty() || below.starts_with('/')) && is_straight(path)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::V4(address) => write!(f, "{address}"),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

impl fmt::Display for UrlPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.server, self.path)
    }
}

/// Whether no server can find a `.` or `..` in `path`, however often it decodes it, whether it takes `\` for `/`, and whether
/// it knows parameters (`/..;a=b/`).
fn is_straight(path: &str) -> bool {
    let mut path = path.as_bytes().to_vec();
    for _ in 0..DECODINGS_MAX {
        let steps = path.split(|byte| matches!(byte, b'/' | b'\\'));
        let mut steps = steps.map(|step| step.split(|byte| *byte == b';').next().unwrap_or_default());
        if steps.any(|step| matches!(step, b"." | b"..")) || path.iter().any(u8::is_ascii_control) {
            return false;
        }
        let decoded = decoded(&path);
        if decoded == path {
            return true;
        }
        path = decoded;
    }
    false
}

/// With each `%2e` replaced by the byte that it stands for.
fn decoded(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.filter(|_| first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(first);
                rest = behind;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> UrlPrefix {
        UrlPrefix::parse(text).unwrap()
    }

    fn covers(granted: &str, scheme: &str, authority: &str, path: &str) -> bool {
        Server::parse(scheme, authority).is_ok_and(|server| prefix(granted).covers_path(&server, path))
    }

    #[test]
    fn scheme_and_host_are_in_lower_case_and_a_port_that_goes_without_saying_is_left_out() {
        for (written, read) in [
            ("HTTPS://API.Carrier.example:443/v1/", "https://api.carrier.example/v1/"),
            ("http://a.example:80/", "http://a.example/"),
            ("http://a.example:8080/", "http://a.example:8080/"),
            ("http://[::1]:8081/", "http://[::1]:8081/"),
            ("http://[0:0::1]/", "http://[::1]/"),
        ] {
            assert_eq!(prefix(written).to_string(), read);
        }
    }

    #[test]
    fn a_url_is_covered_by_scheme_host_port_and_path() {
        let granted = "https://api.carrier.example/v1/";
        assert!(covers(granted, "https", "api.carrier.example", "/v1/parcels"));
        assert!(covers(granted, "HTTPS", "API.carrier.example:443", "/v1/"));
        for (scheme, authority, path) in [
            ("http", "api.carrier.example", "/v1/parcels"),
            ("http", "api.carrier.example:443", "/v1/parcels"),
            ("https", "api.carrier.example:8443", "/v1/parcels"),
            ("https", "api.carrier.example.evil.test", "/v1/parcels"),
            ("https", "api.carrier.example@evil.test", "/v1/parcels"),
            ("https", "evil.test@api.carrier.example", "/v1/parcels"),
            ("https", "evil.test#@api.carrier.example", "/v1/parcels"),
            ("https", "api.carrier.example.", "/v1/parcels"),
            ("https", "xn--pi-6ia.carrier.example", "/v1/parcels"),
            ("https", "api.carrier.example", "/v1"),
            ("https", "api.carrier.example", "/V1/parcels"),
            ("https", "api.carrier.example", "/v10/parcels"),
            ("https", "api.carrier.example", "/%76%31/parcels"),
            ("https", "api.carrier.example", "//v1/parcels"),
        ] {
            assert!(!covers(granted, scheme, authority, path), "{scheme}://{authority}{path}");
        }
    }

    #[test]
    fn a_path_that_leads_out_of_the_prefix_is_not_covered_however_it_is_written() {
        for path in [
            "/v1/../admin",
            "/v1/..",
            "/v1/./x",
            "/v1/%2e%2e/admin",
            "/v1/%2E./admin",
            "/v1/..%2fadmin",
            "/v1/%252e%252e/admin",
            "/v1/%25252525252e./admin",
            "/v1/..;/admin",
            "/v1/..\\admin",
            "/v1/..%5cadmin",
            "/v1/x%00/../y",
            "/v1/x%0d%0aHost:y",
        ] {
            assert!(!covers("https://a.example/v1/", "https", "a.example", path), "{path}");
        }
        assert!(covers("https://a.example/v1/", "https", "a.example", "/v1/group%2Fproject/a..b/...;x/100%"));
        assert!(covers("https://a.example/", "https", "a.example", "/v1/../admin"), "the whole server is granted");
    }

    #[test]
    fn a_prefix_that_ends_within_a_path_covers_what_is_below_it_and_not_beside_it() {
        let granted = "https://a.example/v1";
        assert!(covers(granted, "https", "a.example", "/v1") && covers(granted, "https", "a.example", "/v1/x"));
        assert!(!covers(granted, "https", "a.example", "/v1beta"));
        assert!(prefix(granted).covers(&prefix("https://a.example/v1/")));
        assert!(!prefix("https://a.example/v1/").covers(&prefix(granted)));
    }

    #[test]
    fn a_host_that_resolvers_take_for_another_address_is_no_host() {
        for host in ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.0.1.", "1.2.3.4.5", "a.0X1"] {
            assert!(Server::parse("http", host).is_err(), "{host}");
        }
        for host in ["", "a b", "[::1", "[fe80::1%25eth0]", "[127.0.0.1]", "ä.example", "a_b.example", "a:b"] {
            assert!(Server::parse("http", host).is_err(), "{host}");
        }
        for port in ["", "0", "65536", "+80", "8o"] {
            assert!(Server::parse("http", &format!("a.example:{port}")).is_err(), "{port}");
        }
        assert_eq!(Server::parse("http", "127.0.0.1").unwrap().host, Host::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn what_is_no_prefix_says_why() {
        for (wrong, why) in [
            ("https:/carrier", "is not a URL"),
            ("ftp://carrier.example/", "does not begin with http:// or https://"),
            ("https://carrier.example", "ends before its path"),
            ("https://a@b.example/", "has a user name before its host"),
            ("https://b.example/../", "has a path that goes through . or .."),
            ("https://b.example/%2e%2E/", "has a path that goes through . or .."),
            ("https://b.example/?q", "has a path with other than"),
        ] {
            let told = UrlPrefix::parse(wrong).unwrap_err();
            assert!(told.starts_with(why), "{wrong}: {told}");
        }
    }

    proptest! {
        #[test]
        fn a_prefix_is_read_as_it_is_shown(host in "[a-z]{1,8}(\\.[a-z]{1,8}){0,3}", port in 1_u16.., path in "(/[a-z0-9~%-]{1,6}){0,4}/?") {
            if let Ok(read) = UrlPrefix::parse(&format!("https://{host}:{port}{path}")) {
                prop_assert_eq!(UrlPrefix::parse(&read.to_string()).unwrap(), read);
            }
        }

        #[test]
        fn what_no_decoding_turns_into_dots_is_straight(path in "[a-z/%2e5.;\\\\]{0,24}") {
            let mut seen = path.clone().into_bytes();
            for _ in 0..12 {
                seen = decoded(&seen);
            }
            let dots = seen.split(|byte| matches!(byte, b'/' | b'\\')).any(|step| matches!(step, b"." | b".."));
            prop_assert!(!(dots && is_straight(&path)), "{path}");
        }
    }
}
