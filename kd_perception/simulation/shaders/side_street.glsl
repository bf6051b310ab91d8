// Side streets of junctions, drawn by the strips beside the main road.
uniform float crossings[8];             // s of the side streets near by
uniform float side_half;                // half their width
const float SIDE_WALK = 3.0;

float from_side_street() {
  float nearest = 1e6;
  for (int i = 0; i < 8; ++i) {
    float x = street.x - crossings[i];
    if (abs(x) < abs(nearest)) nearest = x;
  }
  return nearest;
}

// Paint asphalt, its markings or slabs where a side street is; tell whether it was one.
bool side_street() {
  float x = from_side_street(), a = abs(x);
  if (a > side_half + SIDE_WALK) return false;
  if (a > side_half) {
    vec2 t = fract(street.yx / vec2(0.9, 0.8));
    vec3 slab = vec3(0.56, 0.54, 0.51) * (0.85 + 0.25 * fbm(street * 4.0));
    slab *= 0.82 + 0.18 * step(0.03, t.x) * step(0.03, t.y);
    if (a < side_half + 0.28) slab = vec3(0.5);
    finish(slab * (1.0 - 0.25 * wet), 0.02, 2u);
    return true;
  }
  float d = abs(street.y) - half_road();          // from the edge of the main road
  vec3 c = vec3(0.23, 0.23, 0.24) * style.z * (0.75 + 0.35 * fbm(street * vec2(9.0, 3.0)));
  float line = 0.0;
  if (d > 0.6 && d < 3.4) line = a < side_half - 0.4 ? step(0.5, fract(x)) : 0.0;
  else if (d > 4.6) line = a < 0.08 ? step(fract(d / 6.0), 0.5) : 0.0;
  bool incoming = x * street.y < 0.0;             // they keep right
  if (d > 4.2 && d < 4.6 && incoming && a < side_half - 0.3) line = 1.0;
  c = mix(c, vec3(0.8), line * 0.9);
  finish(c * (1.0 - 0.4 * wet), 0.08 + wet * 0.8, line > 0.5 ? 24u : 1u);
  return true;
}
