// A strip of quads in street coordinates that travels with the camera in whole steps.
in vec3 strip;                          // s - origin, d, z
uniform float origin;
#ifdef JUNCTIONS
uniform float crossings[8];             // s of the side streets near by
uniform float side_half;                // half their width
#endif
out vec3 world;
out vec2 street;

void main() {
  street = vec2(strip.x + origin, strip.y);
  float h = heading(street.x);
  world = vec3(street.x - street.y * sin(h), lateral(street.x) + street.y * cos(h), strip.z);
#ifdef JUNCTIONS
  float nearest = 1e6;                  // kerbs sink towards the side streets
  for (int i = 0; i < 8; ++i) nearest = min(nearest, abs(street.x - crossings[i]));
  world.z *= smoothstep(side_half, side_half + 1.6, nearest);
#endif
  gl_Position = view_projection * vec4(world, 1);
}
