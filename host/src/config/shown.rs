//! URLs as people may see them: what stands before the host may be a password.

/// `url` without the user and the password in it, if there are any, whether it is a URL or only meant as one.
#[must_use]
pub fn without_login(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    // The last one, since a password may have others that should have been escaped.
    match rest.rsplit_once('@') {
        Some((_, rest)) => format!("{scheme}{separator}***@{rest}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::without_login;

    #[test]
    fn nothing_of_a_login_is_shown() {
        for (url, shown) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://user:hunter2@shop.example:80/x", "http://***@shop.example:80/x"),
            ("https://hunter2@shop.example", "https://***@shop.example"),
            ("http://user:hunter2/@2@shop.example", "http://***@shop.example"),
            ("user:hunter2@shop.example", "***@shop.example"),
            ("ftp://user:hunter2@", "ftp://***@"),
            ("", ""),
        ] {
            assert_eq!(without_login(url), shown);
        }
    }
}
