// Walls with rows of windows; roofs of the same mesh stay plain.
vec3 facade(vec3 c, float style, out float gloss, out float glow) {
  vec2 u = abs(local_normal.x) > 0.5 ? local.yz : local.xz;
  u.y += 50.0;
  vec2 cell = vec2(1.6 + style, 2.6 + 0.6 * fract(style * 7.0));
  vec2 g = fract(u / cell), at = floor(u / cell);
  c *= 0.85 + 0.25 * fbm(u * 1.5);
  if (style > 0.5) {                    // courses of brick
    float course = floor(u.y * 4.0);
    c *= 0.9 + 0.12 * step(0.1, fract(u.y * 4.0)) * step(0.06, fract(u.x * 2.0 + 0.5 * mod(course, 2.0)));
  }
  float wide = 0.14 + 0.14 * fract(style * 13.0);
  bool pane = g.x > wide && g.x < 1.0 - wide && g.y > 0.28 && g.y < 0.8;
  bool frame = g.x > wide - 0.04 && g.x < 1.04 - wide && g.y > 0.24 && g.y < 0.84;
  if (pane) {
    float on = step(0.95 - 0.5 * night, hash(at + style * 17.0));
    c = mix(vec3(0.16, 0.21, 0.27) + 0.12 * noise(at * 3.0 + u * 0.3), vec3(1.0, 0.85, 0.55),
            on * (0.2 + 0.8 * night));
    c *= g.x > 0.485 && g.x < 0.515 ? 1.8 : 1.0;
    glow = on * night;
    gloss = 0.6;
  } else if (frame) {
    c *= 1.18;
  }
  return c;
}

void main() {
  vec3 c = color;
  float gloss = 0.05, glow = 0.0;
  if (abs(local_normal.z) < 0.5) c = facade(c, kind.w, gloss, glow);
  finish(c, normalize(world_normal), gloss, glow);
}
