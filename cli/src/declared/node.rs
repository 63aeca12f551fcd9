//! The tree that every format becomes: values, and where they stand.

/// Containers within each other. No settings come near it, and code that walks a tree may call itself so often.
pub const DEPTH_MAX: usize = 64;
/// Values of one file, those that aliases repeat included.
pub const NODES_MAX: usize = 2_000_000;

/// Counted from 1; the column in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

impl Place {
    pub fn new(line: usize, column: usize) -> Self {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { line: number(line), column: number(column) }
    }
}

/// What is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    pub message: String,
}

impl Fault {
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// Larger than the others hold.
    Large(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

impl Node {
    pub fn new(place: Place, value: Value) -> Self {
        Self { place, value }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Values in it, itself included, and how many containers are within each other.
    pub fn measure(&self) -> (usize, usize) {
        let of_all = |nodes: &mut dyn Iterator<Item = &Node>| {
            nodes
                .map(Node::measure)
                .fold((1, 0), |(count, depth), (more, deep)| (count + more, depth.max(deep)))
        };
        match &self.value {
            Value::List(items) => {
                let (count, depth) = of_all(&mut items.iter());
                (count, depth + 1)
            }
            Value::Table(entries) => {
                let (count, depth) = of_all(&mut entries.iter().map(|entry| &entry.node));
                (count, depth + 1)
            }
            _ => (1, 0),
        }
    }

    /// Where the setting of a dotted path stands, or else the nearest that is there.
    pub fn place_of(&self, path: &str) -> Place {
        let mut node = self;
        let mut place = self.place;
        for part in path.split('.') {
            let Some(entry) = node.entry(part) else { break };
            (node, place) = (&entry.node, entry.place);
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_place_of_a_path_is_found() {
        let at = |line| Place::new(line, 1);
        let table = |line, key: &str, node| {
            Node::new(at(line), Value::Table(vec![Entry { key: key.into(), place: at(line), node }]))
        };
        let node = table(1, "limits", table(2, "memory", Node::new(at(3), Value::Int(1))));
        assert_eq!(node.place_of("limits.memory"), at(2));
        assert_eq!(node.place_of("limits.cpu"), at(1));
        assert_eq!(node.place_of("scale"), at(1));
        assert_eq!(node.measure(), (3, 2));
    }
}
