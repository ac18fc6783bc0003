//! What a client sent, before it is an order: every field checked, every refusal naming its field.
