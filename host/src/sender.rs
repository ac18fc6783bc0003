//! Sends what handlers put into the outbox: e-mail to a folder or over SMTP.
