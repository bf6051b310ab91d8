// Lawn, more or less dry. Tag 10.
void main() {
#ifdef JUNCTIONS
  if (side_street()) return;
#endif
  float dry = clamp(fbm(street * 0.35 + seed) + style.w, 0.0, 1.0);
  vec3 c = mix(vec3(0.17, 0.26, 0.09), vec3(0.33, 0.30, 0.17), dry);
  finish(c * (0.7 + 0.6 * fbm(street * 6.0)), 0.02, 10u);
}
