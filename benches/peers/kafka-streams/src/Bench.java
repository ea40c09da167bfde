import java.util.List;
final class Bench { static void main(List<String> a) {} }
