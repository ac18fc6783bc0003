//! How deep a file may nest, looked at before anybody reads it who would go along.
//!
//! Wasmparser reads a type of a component within a type by calling itself: three bytes a step, so that a file of a few KiB
//! uses up a thread's stack, and with it the process. Components within components it validates in time that grows with the
//! square of their depth. What toolchains make nests a handful of times.

use wasmtime::wasmparser::{Parser, Payload};

use super::error::NotAComponent;

/// Components and modules within one another.
const DEPTH_MAX: u32 = 32;
/// Types of components and instances within those of one section. Each may stand in the one before, and so deep the readers go.
const TYPES_MAX: usize = 256;

/// # Errors
/// [`NotAComponent::TooDeep`]. What else is wrong with `bytes` is for others to say.
pub fn check(bytes: &[u8]) -> Result<(), NotAComponent> {
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload {
            Ok(Payload::ComponentSection { .. } | Payload::ModuleSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::ComponentTypeSection(section)) => {
                let types = bytes.get(section.range()).map_or(0, inner_types);
                if types > TYPES_MAX {
                    return Err(NotAComponent::TooDeep { what: "types", max: TYPES_MAX });
                }
            }
            Ok(_) => {}
            // Whoever reads it stops here too.
            Err(_) => return Ok(()),
        }
        if depth > DEPTH_MAX {
            return Err(NotAComponent::TooDeep { what: "components", max: DEPTH_MAX as usize });
        }
    }
    Ok(())
}

/// At least as many types of components and instances as stand in others: each begins with these two bytes (a declaration, of
/// a type; the type's form), which may mean something else too.
fn inner_types(section: &[u8]) -> usize {
    section.windows(2).filter(|pair| matches!(pair, [0x01, 0x41 | 0x42])).count()
}

#[cfg(test)]
mod tests {
    use wasm_encoder::Encode as _;

    use super::super::fixture::{self, DONE, guest};
    use super::super::hostile::refused;
    use super::super::{LoadError, NotAComponent};

    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        let mut component = EMPTY.to_vec();
        component.push(id);
        content.len().encode(&mut component);
        component.extend(content);
        component
    }

    /// A type of a component, or of an instance, in another and so on.
    fn types(form: u8, depth: usize) -> Vec<u8> {
        let mut types = [form, 1, 1].repeat(depth);
        types.extend([form, 0]);
        types.insert(0, 1);
        section(7, &types)
    }

    fn components(depth: u32) -> Vec<u8> {
        (0..depth).fold(EMPTY.to_vec(), |inner, _| section(4, &inner))
    }

    #[tokio::test]
    async fn a_file_that_nests_so_deep_that_readers_fall_over_is_refused_unread() {
        for bytes in [types(0x41, 1_000), types(0x42, 1_000), types(0x41, 1_000_000), components(2_000)] {
            let refused = refused(bytes).await;
            assert!(matches!(refused, LoadError::NotAComponent(NotAComponent::TooDeep { .. })), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_file_that_nests_a_little_is_read() {
        for bytes in [types(0x41, 50), types(0x42, 50), components(20)] {
            let refused = refused(bytes).await;
            assert!(matches!(refused, LoadError::UnknownContract { .. }), "{refused}");
        }
        assert!(super::check(&guest(DONE)).is_ok());
        drop(fixture::plugin(guest(DONE)).await);
    }
}
