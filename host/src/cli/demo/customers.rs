//! Who buys in the demo's shop: made-up people of several countries, with addresses as they are written there.

use serde_json::{Value, json};

use super::catalogue::Currency;
use super::random::Random;
use crate::cli::print::set;

/// A country's customers: how many of a hundred, what they pay in, and the parts that names and addresses are made of.
struct Region {
    country: &'static str,
    share: usize,
    currency: Currency,
    locale: &'static str,
    phone: &'static str,
    given: &'static [&'static str],
    family: &'static [&'static str],
    streets: &'static [&'static str],
    /// City, and the beginning of its postal codes: `#` stands for a digit, `@` for a letter.
    cities: &'static [(&'static str, &'static str)],
    /// The number stands before the street.
    number_first: bool,
}

pub struct Customer {
    pub currency: Currency,
    pub locale: &'static str,
    /// `customer` of an order.
    pub person: Value,
    /// `shipping_address` of an order.
    pub address: Value,
}

/// `count` customers.
pub fn customers(random: &mut Random, count: usize) -> Vec<Customer> {
    (0..count).map(|index| customer(random, index)).collect()
}

fn customer(random: &mut Random, index: usize) -> Customer {
    let region = region(random.below(100));
    let name = format!("{} {}", random.word(region.given), random.word(region.family));
    let (city, postal) = region.cities.get(random.below(region.cities.len())).copied().unwrap_or_default();
    let (street, number) = (random.word(region.streets), random.below(120) + 1);
    let line1 = if region.number_first { format!("{number} {street}") } else { format!("{street} {number}") };
    let mut person = json!({ "id": format!("C-{:04}", index + 1), "name": name, "email": email(&name, index) });
    if random.chance(60) {
        set(&mut person, "phone", json!(format!("{}{:07}", region.phone, random.below(10_000_000))));
    }
    let address = json!({
        "name": name, "line1": line1, "city": city, "postal_code": filled(random, postal), "country": region.country,
    });
    Customer { currency: region.currency, locale: region.locale, person, address }
}

fn region(percent: usize) -> &'static Region {
    let mut sum = 0;
    let chosen = REGIONS.iter().find(|region| {
        sum += region.share;
        percent < sum
    });
    let [first, ..] = &REGIONS;
    chosen.unwrap_or(first)
}

/// Under `.example`, which belongs to nobody: the demo could never write to a real person.
fn email(name: &str, index: usize) -> String {
    let plain = |letter: char| match letter {
        'ä' => 'a',
        'ö' | 'ø' => 'o',
        'ü' => 'u',
        'ç' => 'c',
        'é' | 'è' | 'ë' | 'ê' => 'e',
        'á' | 'à' | 'ã' => 'a',
        'í' | 'ï' => 'i',
        'ñ' => 'n',
        'ó' | 'ô' => 'o',
        ' ' => '.',
        other => other,
    };
    let local: String =
        name.to_lowercase().chars().map(plain).filter(|c| c.is_ascii_alphabetic() || *c == '.').collect();
    format!("{local}{}@mail.example", index + 1)
}

fn filled(random: &mut Random, pattern: &str) -> String {
    let letters = ["A", "B", "D", "E", "F", "G", "H", "J", "L", "N", "P", "R", "S", "T", "W", "X"];
    let mut text = String::new();
    for letter in pattern.chars() {
        match letter {
            '#' => text.push_str(&random.below(10).to_string()),
            '@' => text.push_str(random.word(&letters)),
            other => text.push(other),
        }
    }
    text
}

static REGIONS: [Region; 7] = [
    Region {
        country: "US",
        share: 30,
        currency: Currency::Usd,
        locale: "en-US",
        phone: "+1555",
        given: &["Ava", "Noah", "Mia", "Liam", "Zoe", "Ethan", "Grace", "Caleb", "Nia", "Jordan"],
        family: &["Carter", "Nguyen", "Brooks", "Ramirez", "Hayes", "Sullivan", "Okafor", "Bennett"],
        streets: &["Maple Street", "2nd Avenue", "Lakeview Drive", "Juniper Road", "Harbor Way"],
        cities: &[("Portland, OR", "972##"), ("Austin, TX", "787##"), ("Madison, WI", "537##"), ("Boise, ID", "837##")],
        number_first: true,
    },
    Region {
        country: "DE",
        share: 20,
        currency: Currency::Eur,
        locale: "de-DE",
        phone: "+4930",
        given: &["Anna", "Jonas", "Lena", "Felix", "Mara", "Emil", "Jürgen", "Käthe", "Aylin", "Björn"],
        family: &["Schneider", "Köhler", "Yılmaz", "Brandt", "Vogel", "Müller", "Lindner", "Groß"],
        streets: &["Lindenstraße", "Am Markt", "Bergweg", "Schillerstraße", "Hafengasse"],
        cities: &[("Berlin", "10###"), ("Hamburg", "20###"), ("Leipzig", "04###"), ("Freiburg", "79###")],
        number_first: false,
    },
    Region {
        country: "FR",
        share: 14,
        currency: Currency::Eur,
        locale: "fr-FR",
        phone: "+331",
        given: &["Chloé", "Hugo", "Inès", "Théo", "Zoë", "Louis", "Maëlle", "Karim"],
        family: &["Lefèvre", "Moreau", "Benali", "Garnier", "Rousseau", "Perrin", "Dubois"],
        streets: &["rue des Lilas", "avenue de la Gare", "rue du Moulin", "place du Marché"],
        cities: &[("Lyon", "6900#"), ("Nantes", "440##"), ("Reims", "511##"), ("Rennes", "350##")],
        number_first: true,
    },
    Region {
        country: "ES",
        share: 8,
        currency: Currency::Eur,
        locale: "es-ES",
        phone: "+3491",
        given: &["Lucía", "Mateo", "Sofía", "Pablo", "Íñigo", "Carmen"],
        family: &["García", "Núñez", "Ortega", "Iglesias", "Peña", "Romero"],
        streets: &["Calle Mayor", "Calle del Sol", "Paseo de la Ribera"],
        cities: &[("Madrid", "280##"), ("Valencia", "460##"), ("Bilbao", "480##")],
        number_first: false,
    },
    Region {
        country: "GB",
        share: 14,
        currency: Currency::Gbp,
        locale: "en-GB",
        phone: "+4420",
        given: &["Oliver", "Amelia", "Priya", "Harry", "Isla", "Rhys", "Fiona"],
        family: &["Davies", "Patel", "Hughes", "Fraser", "O'Neill", "Whitfield"],
        streets: &["Church Lane", "Station Road", "Victoria Terrace", "Mill Hill"],
        cities: &[("Bristol", "BS# #@@"), ("Leeds", "LS# #@@"), ("Cardiff", "CF# #@@"), ("Glasgow", "G# #@@")],
        number_first: true,
    },
    Region {
        country: "JP",
        share: 10,
        currency: Currency::Jpy,
        locale: "ja-JP",
        phone: "+813",
        given: &["Yui", "Haruto", "Sakura", "Ren", "Aoi", "Sota"],
        family: &["Tanaka", "Sato", "Kobayashi", "Mori", "Ishikawa"],
        streets: &["Minami", "Sakuragaoka", "Honcho"],
        cities: &[("Sapporo", "060-00##"), ("Kyoto", "604-80##"), ("Fukuoka", "810-00##")],
        number_first: false,
    },
    Region {
        country: "NL",
        share: 4,
        currency: Currency::Eur,
        locale: "nl-NL",
        phone: "+3120",
        given: &["Sanne", "Daan", "Fleur", "Bram"],
        family: &["de Vries", "Jansen", "van den Berg", "Bakker"],
        streets: &["Kerkstraat", "Molenweg", "Prinsengracht"],
        cities: &[("Utrecht", "35## @@"), ("Groningen", "97## @@")],
        number_first: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_make_a_hundred() {
        assert_eq!(REGIONS.iter().map(|region| region.share).sum::<usize>(), 100);
    }

    #[test]
    fn every_address_is_one_that_a_mail_program_takes() {
        for customer in customers(&mut Random::seeded(7), 500) {
            let email = customer.person["email"].as_str().unwrap();
            assert!(email.parse::<lettre::Address>().is_ok(), "{email}");
        }
    }
}
