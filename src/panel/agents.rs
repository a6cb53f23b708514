pub struct Line;
impl Line {
    pub fn send(&self, _text: String) {}
    pub fn close(self, _code: u16, _reason: &'static str) {}
}
