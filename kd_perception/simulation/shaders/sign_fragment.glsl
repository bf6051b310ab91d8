// Traffic signs: the face looks to -x, rim and back are grey.
vec3 sign_face(vec3 c, float style) {
  float r = length(local.yz);
  if (local_normal.x > -0.5) return vec3(0.42);        // rim and grey back
  if (style < 0.3) return abs(local.z) < 0.07 && r < 0.27 ? vec3(0.95) : c;
  if (style < 0.65) {                                  // white field with a black figure
    if (r > 0.27) return c;
    float figure = hash(floor(local.yz * 22.0) + style * 9.0);
    return figure > 0.6 && r < 0.17 ? vec3(0.05) : vec3(0.95);
  }
  float arrow = abs(local.y) - 0.05 - 0.12 * step(0.05, local.z) * (0.22 - local.z) * 6.0;
  return arrow < 0.0 && abs(local.z) < 0.22 ? vec3(0.95) : c;
}

void main() {
  finish(sign_face(color, kind.w), normalize(world_normal), 0.05, 0.25 * night);
}
