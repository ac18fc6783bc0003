//! What a page of another site makes a browser send.
//!
//! Nobody is asked who he is here: whoever reaches the host may use it. A browser reaches it for every page that it shows, on
//! loopback and behind a firewall, too. So what comes for a page of another site is refused, as browsers tell it: by
//! `Sec-Fetch-Site`, and where that is missing, which it is where neither side is HTTPS or loopback, by `Origin` beside `Host`. A
//! person may follow a link to what is only looked at. Programs send neither header, and no page can leave them out.
//!
//! The rule is that of Go's `net/http.CrossOriginProtection`, and for reading that of a resource isolation policy
//! (<https://web.dev/articles/fetch-metadata>).

use axum::extract::Request;
use axum::http::header::{AsHeaderName, HOST, ORIGIN};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;

use super::problem::{Error, Result};
use super::request::clip;

/// Around every call.
pub async fn own(request: Request, next: Next) -> Result<Response> {
    check(&request)?;
    Ok(next.run(request).await)
}

fn check<B>(request: &axum::http::Request<B>) -> Result<()> {
    let headers = request.headers();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let refused = |from: &str| Err(Error::ForeignPage { from: clip(from) });
    match text(headers, "sec-fetch-site") {
        Some("same-origin" | "none") => return Ok(()),
        Some(_) if reads && text(headers, "sec-fetch-mode") == Some("navigate") => return Ok(()),
        Some(site) => return refused(text(headers, ORIGIN).unwrap_or(site)),
        None => {}
    }
    let Some(origin) = text(headers, ORIGIN).filter(|_| !reads) else { return Ok(()) };
    let host = text(headers, HOST).or(request.uri().authority().map(|authority| authority.as_str()));
    let page = origin.split_once("://").map(|(_, page)| page);
    match page.zip(host) {
        Some((page, host)) if page.eq_ignore_ascii_case(host) => Ok(()),
        _ => refused(origin),
    }
}

/// What the header says; where it says several things, or what is no text, something that nobody expects.
fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => None,
        (Some(value), None) => Some(value.to_str().unwrap_or("?")),
        (Some(_), Some(_)) => Some("?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_taken(method: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = axum::http::Request::builder().method(method).uri("/v1/orders");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn what_a_page_of_another_site_sends_is_refused() {
        const HOST: (&str, &str) = ("host", "localhost:8080");
        let site = |site| ("sec-fetch-site", site);
        for method in ["POST", "DELETE", "GET", "OPTIONS"] {
            assert!(is_taken(method, &[HOST]), "a program's {method}");
            assert!(is_taken(method, &[HOST, site("same-origin"), ("origin", "http://localhost:8080")]), "{method}");
            assert!(is_taken(method, &[HOST, site("none")]), "{method}, of a person");
            for other in ["cross-site", "same-site", "anything", ""] {
                assert!(!is_taken(method, &[HOST, site(other)]), "{method} {other}");
                assert!(!is_taken(method, &[HOST, site(other), ("sec-fetch-mode", "no-cors")]), "{method} {other}");
            }
            assert!(!is_taken(method, &[HOST, site("same-origin"), site("cross-site")]), "{method}, of two minds");
        }
        let link = [HOST, site("cross-site"), ("sec-fetch-mode", "navigate")];
        assert!(is_taken("GET", &link), "somebody follows a link");
        assert!(!is_taken("POST", &link), "a form is sent");
    }

    #[test]
    fn where_a_browser_tells_no_site_its_origin_is_looked_at() {
        let post = |host, origin| is_taken("POST", &[("host", host), ("origin", origin)]);
        assert!(post("shop.intranet:8080", "http://shop.intranet:8080"));
        assert!(post("SHOP.intranet", "https://shop.INTRANET"));
        for origin in ["http://evil.example", "http://shop.intranet:81", "null", "", "shop.intranet:8080", "http://"] {
            assert!(!post("shop.intranet:8080", origin), "{origin}");
        }
        assert!(!is_taken("POST", &[("origin", "http://evil.example")]));
        assert!(is_taken("GET", &[("host", "a"), ("origin", "http://evil.example")]), "it cannot read the answer");
    }
}
