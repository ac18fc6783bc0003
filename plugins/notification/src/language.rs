//! The words of the letters, in each language that customers are written to.
//!
//! Placeholders: `{order}` the shop's number or the order id, `{name}`, `{reason}`, `{carrier}`, `{number}` of the parcel.

use fanfare_sdk::money::{self, Separators};

pub struct Language {
    separators: Separators,
    /// The currency stands before the amount, not behind it.
    currency_first: bool,
    pub greeting: &'static str,
    pub greeting_nameless: &'static str,
    pub placed: Step,
    pub confirmed: Step,
    pub rejected: Step,
    pub shipped: Step,
    pub delivered: Step,
    pub cancelled: Step,
    pub reason: &'static str,
    pub total: &'static str,
    pub closing: &'static str,
}

/// What is said of one step of an order.
pub struct Step {
    pub subject: &'static str,
    pub body: &'static str,
}

impl Language {
    /// By a BCP 47 tag, of which only the language counts: `de`, `de-AT`, `de_CH`. English where it is not one of ours.
    pub fn of(locale: Option<&str>) -> &'static Self {
        let language = locale.and_then(|locale| locale.split(['-', '_']).next()).unwrap_or_default();
        match language.to_ascii_lowercase().as_str() {
            "de" => &GERMAN,
            "fr" => &FRENCH,
            "es" => &SPANISH,
            _ => &ENGLISH,
        }
    }

    /// `USD 1,234.50` or `1.234,50 USD`.
    pub fn money(&self, amount: i64, currency: &str) -> String {
        let number = money::format(amount, currency, self.separators);
        if self.currency_first { format!("{currency}\u{a0}{number}") } else { format!("{number}\u{a0}{currency}") }
    }
}

const fn step(subject: &'static str, body: &'static str) -> Step {
    Step { subject, body }
}

static ENGLISH: Language = Language {
    separators: Separators { thousands: ",", decimal: '.' },
    currency_first: true,
    greeting: "Hello {name},",
    greeting_nameless: "Hello,",
    placed: step("We have your order {order}", "Thank you for your order {order}. We are checking our stock for:"),
    confirmed: step(
        "Your order {order} is confirmed",
        "Everything you ordered with {order} is in stock. We are packing it.",
    ),
    rejected: step("We cannot fulfil your order {order}", "We are sorry: we cannot fulfil your order {order}."),
    shipped: step(
        "Your order {order} is on its way",
        "We have handed your order {order} to the carrier. Carrier: {carrier}. Tracking number: {number}.",
    ),
    delivered: step("Your order {order} has arrived", "Your order {order} was delivered. We hope you enjoy it."),
    cancelled: step("Your order {order} is cancelled", "Your order {order} was cancelled. Nothing will be sent."),
    reason: "Reason: {reason}",
    total: "Total",
    closing: "Kind regards, your shop",
};

static GERMAN: Language = Language {
    separators: Separators { thousands: ".", decimal: ',' },
    currency_first: false,
    greeting: "Guten Tag {name},",
    greeting_nameless: "Guten Tag,",
    placed: step(
        "Ihre Bestellung {order} ist eingegangen",
        "vielen Dank für Ihre Bestellung {order}. Wir prüfen unseren Bestand für:",
    ),
    confirmed: step(
        "Ihre Bestellung {order} ist bestätigt",
        "alle Artikel Ihrer Bestellung {order} sind vorrätig. Wir packen sie jetzt ein.",
    ),
    rejected: step(
        "Wir können Ihre Bestellung {order} nicht ausführen",
        "leider können wir Ihre Bestellung {order} nicht ausführen.",
    ),
    shipped: step(
        "Ihre Bestellung {order} ist unterwegs",
        "wir haben Ihre Bestellung {order} versandt. Versanddienst: {carrier}. Sendungsnummer: {number}.",
    ),
    delivered: step(
        "Ihre Bestellung {order} ist angekommen",
        "Ihre Bestellung {order} wurde zugestellt. Wir wünschen Ihnen viel Freude damit.",
    ),
    cancelled: step(
        "Ihre Bestellung {order} ist storniert",
        "Ihre Bestellung {order} wurde storniert. Es wird nichts versandt.",
    ),
    reason: "Grund: {reason}",
    total: "Gesamtbetrag",
    closing: "Mit freundlichen Grüßen, Ihr Shop",
};

static FRENCH: Language = Language {
    separators: Separators { thousands: "\u{202f}", decimal: ',' },
    currency_first: false,
    greeting: "Bonjour {name},",
    greeting_nameless: "Bonjour,",
    placed: step(
        "Nous avons reçu votre commande {order}",
        "Merci pour votre commande {order}. Nous vérifions la disponibilité des articles :",
    ),
    confirmed: step(
        "Votre commande {order} est confirmée",
        "Tous les articles de votre commande {order} sont en stock. Nous la préparons.",
    ),
    rejected: step(
        "Nous ne pouvons pas honorer votre commande {order}",
        "Nous sommes désolés : nous ne pouvons pas honorer votre commande {order}.",
    ),
    shipped: step(
        "Votre commande {order} est en route",
        "Nous avons expédié votre commande {order}. Transporteur : {carrier}. Numéro de suivi : {number}.",
    ),
    delivered: step(
        "Votre commande {order} est arrivée",
        "Votre commande {order} a été livrée. Nous espérons qu'elle vous plaira.",
    ),
    cancelled: step(
        "Votre commande {order} est annulée",
        "Votre commande {order} a été annulée. Rien ne sera expédié.",
    ),
    reason: "Motif : {reason}",
    total: "Total",
    closing: "Cordialement, votre boutique",
};

static SPANISH: Language = Language {
    separators: Separators { thousands: ".", decimal: ',' },
    currency_first: false,
    greeting: "Hola, {name}:",
    greeting_nameless: "Hola:",
    placed: step(
        "Hemos recibido su pedido {order}",
        "Gracias por su pedido {order}. Estamos comprobando la disponibilidad de:",
    ),
    confirmed: step(
        "Su pedido {order} está confirmado",
        "Todos los artículos de su pedido {order} están disponibles. Lo estamos preparando.",
    ),
    rejected: step("No podemos servir su pedido {order}", "Lo sentimos: no podemos servir su pedido {order}."),
    shipped: step(
        "Su pedido {order} está en camino",
        "Hemos enviado su pedido {order}. Transportista: {carrier}. Número de seguimiento: {number}.",
    ),
    delivered: step("Su pedido {order} ha llegado", "Su pedido {order} ha sido entregado. Esperamos que lo disfrute."),
    cancelled: step("Su pedido {order} está cancelado", "Su pedido {order} ha sido cancelado. No se enviará nada."),
    reason: "Motivo: {reason}",
    total: "Total",
    closing: "Atentamente, su tienda",
};
