// Slabs of the sidewalk behind a kerb stone. Tag 2.
void main() {
#ifdef JUNCTIONS
  if (side_street()) return;
#endif
  vec2 t = fract(street / vec2(0.9, 0.8));
  vec3 c = vec3(0.56, 0.54, 0.51) * (0.85 + 0.25 * fbm(street * 4.0));
  c *= 0.82 + 0.18 * step(0.03, t.x) * step(0.03, t.y);
  if (abs(street.y) < half_road() + 0.28) c = vec3(0.5) * (0.9 + 0.2 * noise(street * 8.0));
  finish(c * (1.0 - 0.25 * wet), 0.02, 2u);
}
