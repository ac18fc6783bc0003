//! Letters from parts: one description, two renderings. Text is as it is, HTML is escaped; neither can be broken by what a
//! customer or another consumer wrote.

pub struct Letter {
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// What a letter says, in the order in which it says it.
#[derive(Default)]
pub struct Draft {
    pub subject: String,
    pub paragraphs: Vec<String>,
    /// What was ordered, and for how much; the last row is the total.
    pub table: Vec<(String, String)>,
    pub link: Option<String>,
    pub closing: String,
}

impl Draft {
    pub fn render(self) -> Letter {
        Letter { text: self.text(), html: self.html(), subject: self.subject }
    }

    fn text(&self) -> String {
        let mut text = self.paragraphs.join("\n\n");
        if !self.table.is_empty() {
            text.push('\n');
        }
        for (what, amount) in &self.table {
            text.push_str(&format!("\n  {what}: {amount}"));
        }
        if let Some(link) = &self.link {
            text.push_str(&format!("\n\n{link}"));
        }
        text.push_str(&format!("\n\n{}\n", self.closing));
        text
    }

    fn html(&self) -> String {
        let mut html = String::from("<!doctype html><html><body>");
        for paragraph in &self.paragraphs {
            html.push_str(&format!("<p>{}</p>", escape(paragraph)));
        }
        if !self.table.is_empty() {
            html.push_str("<table>");
            for (what, amount) in &self.table {
                let (what, amount) = (escape(what), escape(amount));
                html.push_str(&format!("<tr><td>{what}</td><td align=\"right\">{amount}</td></tr>"));
            }
            html.push_str("</table>");
        }
        // Only what is plainly a web address becomes a link: `javascript:` is one, too, to some readers.
        if let Some(link) = self.link.as_deref().filter(|link| link.starts_with("https://")) {
            let link = escape(link);
            html.push_str(&format!("<p><a href=\"{link}\">{link}</a></p>"));
        }
        html.push_str(&format!("<p>{}</p></body></html>", escape(&self.closing)));
        html
    }
}

/// Puts values in place of `{name}`. A value is put in as it is: what looks like a placeholder in it stays. Control
/// characters become spaces, so that a value cannot begin a new line, or a new header in a subject.
pub fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let (name, behind) = after.split_once('}').unwrap_or((after, ""));
        let value = values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        filled.extend(value.chars().map(|c| if c.is_control() { ' ' } else { c }));
        rest = behind;
    }
    filled.push_str(rest);
    filled
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_put_in_as_they_are() {
        assert_eq!(fill("Order {order}, {name}", &[("order", "{name}"), ("name", "A")]), "Order {name}, A");
        assert_eq!(fill("{a}{b}", &[("a", "x\r\nBcc: y")]), "x  Bcc: y");
    }

    #[test]
    fn html_is_escaped_and_only_web_addresses_are_links() {
        let draft = |link: &str| Draft {
            paragraphs: vec!["<b>&\"'".to_owned()],
            table: vec![("<i>".to_owned(), "1 < 2".to_owned())],
            link: Some(link.to_owned()),
            ..Draft::default()
        };
        let html = draft("https://t.example/?a=1&b=\"").render().html;
        assert!(html.contains("<p>&lt;b&gt;&amp;&quot;&#39;</p>"), "{html}");
        assert!(html.contains("<td>&lt;i&gt;</td>"), "{html}");
        assert!(html.contains("<a href=\"https://t.example/?a=1&amp;b=&quot;\">"), "{html}");
        assert!(!draft("javascript:alert(1)").render().html.contains("javascript"));
    }
}
